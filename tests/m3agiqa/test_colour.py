"""Colours of files, against constants recorded from Chromium 156 by way of tests/m3agiqa/chromium.py."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from m3agiqa.colour import MAX_PROFILE_BYTES, Colour, to_srgb
from m3agiqa.icc import matrix_profile
from tests.m3agiqa.odd_images import (
    ADOBE,
    ICC_ADOBE,
    ICC_CMYK,
    ICC_GARBAGE,
    ICC_GREY,
    ICC_LINEAR,
    ICC_P3,
    ICC_SRGB,
    ICC_SWAPPED,
    ICC_TABLE,
    ICC_TABLE_1,
    ICC_TABLES,
    ICC_TINTING,
    P3,
    SRGB,
    SRGB_CURVE,
)

#: Of 255: littleCMS and Chromium's own library round differently, and both put tables between colours.
TOLERANCE = 3

COLOURS = bytes.fromhex("c82828 3cb44b 2850c8 808080 101010 f0c8ff")
GREYS = bytes([0, 16, 64, 128, 200, 255])


def xy(chromaticities: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(round(100_000 * value) for value in chromaticities)


def close(found: bytes, recorded: str) -> bool:
    return all(abs(a - b) <= TOLERANCE for a, b in zip(found, bytes.fromhex(recorded), strict=True))


SHOWN = [
    (Colour(gamma=2_000), "000000 000000 000000 000000 000000 3e00ff"),
    (Colour(gamma=43_000), "c71f1f 34b244 1f49c7 7c7c7c 050505 f0c7ff"),
    (Colour(gamma=55_556), "d23535 4dc15d 3563d2 929292 141414 f3d2ff"),
    (Colour(gamma=100_000), "e56e6e 85db94 6e98e5 bcbcbc 474747 f8e5ff"),
    (Colour(gamma=500_000), "fad9d9 e0f7e5 d9e6fa f0f0f0 c8c8c8 fefaff"),
    (Colour(gamma=100_000, chromaticities=xy(SRGB)), "e56e6e 85db94 6e98e5 bcbcbc 474747 f8e5ff"),
    (Colour(gamma=100_000, chromaticities=xy(ADOBE)), "ff6e6e 3edb8f 5798e8 bcbcbc 474747 ffe5ff"),
    (Colour(gamma=100_000, chromaticities=xy(P3)), "f6656a 65dd8c 6299eb bcbcbc 474747 fce4ff"),
    (Colour(gamma=45_455, chromaticities=xy(ADOBE)), "e92323 00b540 004fcd 818181 070707 fec9ff"),
    (Colour(cicp=(4, 13)), "ed1512 00b142 0060ce 808080 101010 fdcbff"),
    (Colour(cicp=(5, 13)), "cc2828 2eb44d 2550c7 808080 101010 f2c8fe"),
    (Colour(cicp=(6, 13)), "c33127 49b24a 3053c8 808080 101010 eecaff"),
    (Colour(cicp=(7, 13)), "c33127 49b24a 3053c8 808080 101010 eecaff"),
    (Colour(cicp=(8, 13)), "e30018 00b93d 004dce 808080 101010 fcc5ff"),
    (Colour(cicp=(9, 13)), "f9001b 00bd32 0052d1 808080 101010 ffc2ff"),
    (Colour(cicp=(10, 13)), "ff0043 00ed00 006fd3 808080 101010 ff95ff"),
    (Colour(cicp=(11, 13)), "d5001b 00b739 1b50cf 808080 101010 f5c6ff"),
    (Colour(cicp=(12, 13)), "da001a 00b739 1651d0 808080 101010 f8c6ff"),
    (Colour(cicp=(22, 13)), "ca3227 34b04b 2757c8 808080 101010 f1cbff"),
    (Colour(cicp=(1, 1)), "c51c1c 31b041 1c46c5 797979 040404 efc5ff"),
    (Colour(cicp=(1, 4)), "c92323 39b54a 234fc9 818181 070707 f0c9ff"),
    (Colour(cicp=(1, 5)), "bd1111 24a533 1138bd 6a6a6a 010101 edbdff"),
    (Colour(cicp=(1, 6)), "c51c1c 31b041 1c46c5 797979 040404 efc5ff"),
    (Colour(cicp=(1, 7)), "ce3a3a 4dbc5c 3a61ce 8d8d8d 222222 f2ceff"),
    (Colour(cicp=(1, 8)), "e56e6e 85db94 6e98e5 bcbcbc 474747 f8e5ff"),
    (Colour(cicp=(1, 11)), "c51c1c 31b041 1c46c5 797979 040404 efc5ff"),
    (Colour(cicp=(1, 14)), "c51c1c 31b041 1c46c5 797979 040404 efc5ff"),
    (Colour(cicp=(1, 15)), "c51c1c 31b041 1c46c5 797979 040404 efc5ff"),
    (Colour(cicp=(1, 17)), "c81717 2cb13c 1741c8 767676 030303 f7c8ff"),
    (Colour(icc=ICC_P3), "da001a 00b739 1651d0 808080 101010 f8c6ff"),
    (Colour(icc=ICC_ADOBE), "e92323 00b540 004fcd 818181 070707 fec9ff"),
    (Colour(icc=ICC_LINEAR), "e56e6e 85db94 6e98e5 bcbcbc 474747 f8e5ff"),
    (Colour(icc=ICC_SWAPPED), "28c828 4b3cb4 c82850 808080 101010 fff0c8"),
    (Colour(icc=ICC_TABLE), "0f640d 8a4e68 535fa1 777777 141414 ceeaeb"),
    (Colour(icc=ICC_TABLE_1), "0f640d 8a4e68 535fa1 777777 141414 ceeaeb"),
    (Colour(icc=ICC_TABLES), "0f640d 8a4e68 535fa1 777777 141414 ceeaeb"),
    (Colour(icc=ICC_SWAPPED, srgb=True, gamma=100_000), "28c828 4b3cb4 c82850 808080 101010 fff0c8"),
    (Colour(cicp=(12, 8), icc=ICC_SWAPPED), "f6656a 65dd8c 6299eb bcbcbc 474747 fce4ff"),
    (Colour(cicp=(2, 2), icc=ICC_SWAPPED), "28c828 4b3cb4 c82850 808080 101010 fff0c8"),
    (Colour(icc=ICC_GARBAGE, gamma=100_000), "e56e6e 85db94 6e98e5 bcbcbc 474747 f8e5ff"),
]


@pytest.mark.parametrize(("colour", "shown"), SHOWN)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_rgb_is_converted_in_place_and_alpha_stays(colour: Colour, shown: str, mode: str) -> None:
    image = Image.frombytes("RGB", (6, 1), COLOURS)
    alpha = Image.frombytes("L", (6, 1), GREYS)
    if mode == "RGBA":
        image.putalpha(alpha)
    assert to_srgb(image, colour) is image
    assert image.mode == mode
    assert close(image.convert("RGB").tobytes(), shown), image.convert("RGB").tobytes().hex(" ", 3)
    if mode == "RGBA":
        assert image.getchannel("A").tobytes() == alpha.tobytes()


GREYS_SHOWN = [
    (Colour(icc=ICC_GREY), "000000 474747 898989 bcbcbc e5e5e5 ffffff"),
    (Colour(icc=ICC_LINEAR), "000000 474747 898989 bcbcbc e5e5e5 ffffff"),
    (Colour(icc=ICC_TINTING), "000000 0e0f05 3b3d22 767b4a b9c076 edf598"),
    (Colour(icc=ICC_ADOBE), "000000 070707 3e3e3e 818181 c9c9c9 ffffff"),
    (Colour(icc=ICC_TABLE), "000000 141414 3b3b3b 777777 c2c2c2 ffffff"),
    (Colour(gamma=100_000), "000000 474747 898989 bcbcbc e5e5e5 ffffff"),
    (Colour(cicp=(12, 8)), "000000 474747 898989 bcbcbc e5e5e5 ffffff"),
]


@pytest.mark.parametrize(("colour", "shown"), GREYS_SHOWN)
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_takes_profiles_of_grey_and_of_rgb(colour: Colour, shown: str, mode: str) -> None:
    image = Image.frombytes("L", (6, 1), GREYS)
    alpha = Image.frombytes("L", (6, 1), bytes(range(6)))
    if mode == "LA":
        image.putalpha(alpha)
    tinted = colour.icc == ICC_TINTING
    converted = to_srgb(image, colour)
    assert (converted is image) == (not tinted)
    assert converted.mode == {"L": ("L", "RGB"), "LA": ("LA", "RGBA")}[mode][tinted]
    assert close(converted.convert("RGB").tobytes(), shown), converted.convert("RGB").tobytes().hex(" ", 3)
    if mode == "LA":
        assert converted.getchannel("A").tobytes() == alpha.tobytes()


CMYK = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (100, 50, 30, 20)]


@pytest.mark.parametrize(
    ("icc", "shown"),
    [
        (None, "ffffff 00ffff ff00ff ffff00 000000 8ebccf"),
        (ICC_CMYK, "ffffff 00ceff e5558d fffd9b 666666 a0c8d8"),
        (ICC_SWAPPED, "ffffff 00ffff ff00ff ffff00 000000 8ebccf"),
        (ICC_GARBAGE, "ffffff 00ffff ff00ff ffff00 000000 8ebccf"),
    ],
)
def test_cmyk(icc: bytes | None, shown: str) -> None:
    image = Image.frombytes("CMYK", (6, 1), bytes(sample for colour in CMYK for sample in colour))
    converted = to_srgb(image, Colour(icc=icc))
    assert converted.mode == "RGB"
    assert close(converted.tobytes(), shown), converted.tobytes().hex(" ", 3)


@pytest.mark.parametrize(
    "colour",
    [
        Colour(),
        Colour(srgb=True, gamma=100_000),
        Colour(gamma=45_455),
        Colour(gamma=43_600),
        Colour(gamma=47_500),
        Colour(gamma=45_455, chromaticities=xy(SRGB)),
        Colour(gamma=45_455, chromaticities=(31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)),
        Colour(chromaticities=xy(P3)),
        Colour(cicp=(1, 13)),
        Colour(cicp=(1, 13), icc=ICC_SWAPPED),
        Colour.from_nclx(1, 1),
        Colour.from_nclx(2, 2),
        Colour(icc=ICC_SRGB),
        Colour(icc=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        # Not quite sRGB's curve, and no colour off by more than two.
        Colour(icc=matrix_profile(SRGB, (2.41, *SRGB_CURVE[1:]))),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_what_says_srgb_leaves_every_sample_as_it_is(colour: Colour, mode: str) -> None:
    image = Image.frombytes("RGB", (6, 1), COLOURS).convert(mode)
    before = image.tobytes()
    assert to_srgb(image, colour) is image
    assert image.tobytes() == before


@pytest.mark.parametrize(
    "colour",
    [
        Colour(icc=b""),
        Colour(icc=ICC_GARBAGE),
        Colour(icc=ICC_SWAPPED[:-40]),
        Colour(icc=ICC_SWAPPED[:200]),
        Colour(icc=ICC_SWAPPED + bytes(MAX_PROFILE_BYTES)),
        # It fits no RGB image, and what else the file says is not asked.
        Colour(icc=ICC_GREY, gamma=100_000),
        Colour(icc=ICC_CMYK, gamma=100_000),
        Colour(gamma=0),
        Colour(gamma=100_000, chromaticities=(30_000,) * 8),
        Colour(gamma=100_000, chromaticities=(0,) * 8),
        Colour(gamma=100_000, chromaticities=(31_270, 32_900, 120_000, *xy(SRGB)[3:])),
        Colour(gamma=100_000, chromaticities=(2**32 - 1,) * 8),
        Colour(cicp=(0, 0)),
        Colour(cicp=(12, 2)),
        Colour(cicp=(2, 13)),
        Colour(cicp=(12, 9)),
        # HDR.
        Colour(cicp=(9, 16)),
        Colour(cicp=(9, 18)),
        Colour.from_nclx(9, 16),
    ],
)
def test_what_cannot_be_understood_or_does_not_fit_is_ignored(colour: Colour) -> None:
    image = Image.frombytes("RGB", (6, 1), COLOURS)
    assert to_srgb(image, colour) is image
    assert image.tobytes() == COLOURS


@pytest.mark.parametrize(
    ("said", "meant"),
    [((12, 2), (12, 13)), ((9, 1), (9, 13)), ((2, 8), (1, 8)), ((12, 13), (12, 13)), ((1, 4), (1, 4))],
)
def test_an_avif_means_srgb_where_a_png_means_video_or_nothing(said: tuple[int, int], meant: tuple[int, int]) -> None:
    assert Colour.from_nclx(*said) == Colour(cicp=meant)


@pytest.mark.parametrize("gamma", [1, 10, 2**31, 2**32 - 1])
def test_extreme_gammas(gamma: int) -> None:
    ends = Image.frombytes("RGB", (2, 1), bytes([0, 0, 0, 255, 255, 255]))
    assert to_srgb(ends, Colour(gamma=gamma)).getpixel((1, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK"])
def test_every_row_of_a_tall_image_is_converted(mode: str) -> None:
    icc = ICC_CMYK if mode == "CMYK" else ICC_LINEAR
    tall = Image.linear_gradient("L").resize((3, 1000)).convert("RGB").convert(mode)
    rows = [to_srgb(tall.crop((0, y, 3, y + 1)), Colour(icc=icc)).tobytes() for y in range(1000)]
    assert to_srgb(tall, Colour(icc=icc)).tobytes() == b"".join(rows)


def test_a_buffer_of_somebody_else_is_not_written_to() -> None:
    buffer = bytearray(b"\x80\x40\x20\xff" * 4)
    image = Image.frombuffer("RGBA", (2, 2), buffer, "raw", "RGBA", 0, 1)
    converted = to_srgb(image, Colour(icc=ICC_LINEAR))
    assert converted.getpixel((0, 0)) != (0x80, 0x40, 0x20, 0xFF)
    assert buffer == b"\x80\x40\x20\xff" * 4


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_profile_costs_no_image(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from([ICC_SWAPPED, ICC_GREY, ICC_TABLE, ICC_CMYK, ICC_TINTING])))
    for _ in range(data.draw(st.integers(1, 6))):
        # Most of what can go wrong stands in the header and the table of tags.
        at = data.draw(st.one_of(st.integers(0, 300), st.integers(0, len(damaged) - 1)))
        damaged[at % len(damaged)] = data.draw(st.integers(0, 255))
    convert = partial(to_srgb, colour=Colour(icc=bytes(damaged)))
    for mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        converted = convert(Image.new(mode, (3, 2), 77))
        assert converted.size == (3, 2)
        assert converted.mode in ("L", "LA", "RGB", "RGBA")
