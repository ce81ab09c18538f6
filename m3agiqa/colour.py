"""Colours as a browser shows them: what a file says of its samples, turned into sRGB.

The rules are those of Chromium 156, found by experiment (tests/m3agiqa/test_images_as_shown.py asks it anew).
littleCMS, by way of Pillow, does all conversions; for what a PNG or an AVIF says in numbers, `icc` writes a profile.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from PIL import Image, ImageCms

from m3agiqa.icc import matrix_profile

#: Bytes of an ICC profile. A larger one is ignored; printing presses have the largest in use, 0.5 to 3 MB.
MAX_PROFILE_BYTES = 4 << 20
#: Steps of 255 that a profile may move a colour by and still count as sRGB in other words.
_ROUNDING = 2
#: Rows of an image that are converted at a time.
_STRIP = 256

# Transfer characteristics (ITU-T H.273, table 3) as parameters g, a, b, c, d of the curve that ICC.1:2010, 10.16, calls
# function type 3: linear = (a * sample + b) ** g from d on, c * sample below. Numbers that are not here are ignored:
# 9, 10 and 12, as Chromium ignores them, and the two of HDR, 16 (PQ) and 18 (HLG), which Chromium maps to the screen's
# range by the brightest channel of each pixel. No matrix and curves can do that.
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# The table gives a video camera's curve; Chromium takes the screen's (ITU-R BT.1886).
_VIDEO_CURVE = (2.4, 1.0, 0.0, 0.0, 0.0)
_TRANSFERS = {
    1: _VIDEO_CURVE,
    4: (2.2, 1.0, 0.0, 0.0, 0.0),
    5: (2.8, 1.0, 0.0, 0.0, 0.0),
    6: _VIDEO_CURVE,
    7: (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0912),
    8: (1.0, 1.0, 0.0, 0.0, 0.0),
    11: _VIDEO_CURVE,
    13: _SRGB_CURVE,
    14: _VIDEO_CURVE,
    15: _VIDEO_CURVE,
    17: (2.6, (52.37 / 48) ** (1 / 2.6), 0.0, 0.0, 0.0),
}

# Colour primaries (ITU-T H.273, table 2): x and y of white, red, green, blue.
_D65 = (0.3127, 0.3290)
_C = (0.310, 0.316)
_SRGB_PRIMARIES = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, tuple[float, ...]] = {
    1: _SRGB_PRIMARIES,
    4: (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    10: (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}


@dataclass(frozen=True)
class Colour:
    """What a file says its samples mean. If it says several things, the first of `cicp`, `icc`, `srgb` and `gamma` that
    can be understood counts.
    """

    #: An ICC profile, as it stood in the file.
    icc: bytes | None = None
    #: PNG's sRGB chunk.
    srgb: bool = False
    #: PNG's gAMA: 100,000 times the encoding exponent.
    gamma: int | None = None
    #: PNG's cHRM: white x y, red x y, green x y, blue x y, times 100,000. Ignored without `gamma`.
    chromaticities: tuple[int, ...] | None = None
    #: PNG's cICP, full range: colour primaries and transfer characteristics, numbers of ITU-T H.273.
    cicp: tuple[int, int] | None = None

    @classmethod
    def from_nclx(cls, primaries: int, transfer: int) -> Colour:
        """What an AVIF's `nclx` box says. In an AVIF Chromium takes unknown numbers and the curve of video (1, 6, 14,
        15) for sRGB's; in a PNG it ignores the former and obeys the latter.
        """
        return cls(
            cicp=(
                primaries if primaries in _PRIMARIES else 1,
                transfer if transfer in (4, 5, 7, 8, 16, 17, 18) else 13,
            )
        )


def to_srgb(image: Image.Image, colour: Colour) -> Image.Image:
    """`image` (mode L, LA, RGB, RGBA or CMYK) as a browser shows it, alpha untouched.

    Returns:
        The same object, changed in place, of mode L, LA, RGB or RGBA. CMYK becomes a new image of mode RGB, and grey
        that a profile tints a new one of mode RGB or RGBA. What cannot be understood, or does not fit the image's
        channels, is ignored; HDR (PQ and HLG) stays as it is.
    """
    profile = _profile(colour)
    space = profile[16:20] if profile else b""
    if image.mode == "CMYK":
        return _cmyk_to_srgb(image, _transform(profile, "CMYK") if profile and space == b"CMYK" else None)
    if profile and image.mode in ("L", "LA") and space in (b"GRAY", b"RGB "):
        return _grey_to_srgb(image, profile)
    if profile and image.mode in ("RGB", "RGBA") and space == b"RGB ":
        transform = _transform(profile, image.mode)
        return transform.apply_in_place(_writable(image)) if transform else image
    return image


def _profile(colour: Colour) -> bytes | None:
    """`colour` as an ICC profile; None for sRGB."""
    if colour.cicp is not None and (written := _numbered_profile(*colour.cicp)):
        return written
    if colour.icc is not None and _opens(colour.icc):
        return colour.icc
    if colour.srgb or colour.gamma is None:
        return None
    return _gamma_profile(colour.gamma, colour.chromaticities)


def _opens(icc: bytes) -> bool:
    # Chromium refuses a profile that is cut off, and one of ICC.2 (version 5); littleCMS would take both.
    if not 132 <= len(icc) <= MAX_PROFILE_BYTES or int.from_bytes(icc[:4]) > len(icc) or icc[8] > 4:
        return False
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except Exception:
        # A stranger's bytes: whatever error littleCMS raises, the image is shown without its profile.
        return False
    return True


def _numbered_profile(primaries: int, transfer: int) -> bytes | None:
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        return None
    return matrix_profile(_PRIMARIES[primaries], _TRANSFERS[transfer])


def _gamma_profile(gamma: int, chromaticities: tuple[int, ...] | None) -> bytes | None:
    primaries = tuple(value / 100_000 for value in chromaticities) if chromaticities else _SRGB_PRIMARIES
    if len(primaries) != 8 or max(primaries) > 1 or min(primaries) < 0:
        return None
    srgb = all(abs(a - b) <= 0.001 for a, b in zip(primaries, _SRGB_PRIMARIES, strict=True))
    # 45455 (1/2.2), alone or with sRGB's primaries, is how a PNG says sRGB to those who do not know its sRGB chunk
    # (PNG specification, 11.3.2.5). Chromium takes 45455 alone, give or take five per cent, for sRGB. Beside sRGB's
    # primaries it obeys the number, which darkens shadows by up to 9 of 255; such images stay here as the reference
    # model reads them.
    if 0.95 <= gamma * 2.2 / 100_000 <= 1.05 and (chromaticities is None or (srgb and 45_000 <= gamma <= 46_000)):
        return None
    try:
        return matrix_profile(primaries, (min(100_000 / gamma, 1000.0), 1.0, 0.0, 0.0, 0.0))
    except (ArithmeticError, ValueError, struct.error):
        return None  # a gamma of 0, or primaries that span no colours


@lru_cache(maxsize=8)  # at most 8 profiles of MAX_PROFILE_BYTES; a stream of images has one or two
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Pillow's transform from `profile` to sRGB for images of `mode`; None if it would change nothing, or littleCMS
    refuses the profile.
    """
    output = "RGBA" if mode == "RGBA" else "RGB"
    end = min(132 + 12 * int.from_bytes(profile[128:132]), len(profile))
    tags = [profile[at : at + 4] for at in range(132, end, 12)]
    # Chromium takes A2B0, else A2B1, else matrix and curves. littleCMS skips the tables of other intents than the one
    # asked for.
    by_table = b"A2B1" in tags and b"A2B0" not in tags
    try:
        transform = ImageCms.ImageCmsTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.ImageCmsProfile(io.BytesIO(_srgb_profile())),
            mode,
            output,
            ImageCms.Intent.RELATIVE_COLORIMETRIC if by_table else ImageCms.Intent.PERCEPTUAL,
            # Grey is converted as 256 samples alone, so exactness costs nothing.
            flags=ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE,
        )
        return None if output == mode and _moves_nothing(transform, mode) else transform
    except Exception:
        # As in _opens: littleCMS reads most of a profile only now.
        return None


def _moves_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a lattice of colours stays where it is, within _ROUNDING."""
    steps = range(0, 256, 17)
    colours = Image.new("RGB", (16 * 16 * 16, 1))
    colours.putdata(list(product(steps, steps, steps)))
    moved = transform.apply(colours.convert(mode)).convert("RGB")
    return all(abs(a - b) <= _ROUNDING for a, b in zip(colours.tobytes(), moved.tobytes(), strict=True))


def _cmyk_to_srgb(image: Image.Image, transform: ImageCms.ImageCmsTransform | None) -> Image.Image:
    """Chromium first mixes black into the other three inks, so that a profile converts three inks without black."""
    rgb = Image.new("RGB", image.size)
    for box in _strips(image):
        strip = image.crop(box).convert("RGB")
        # Pillow turns RGB into its complement in three inks, without black.
        rgb.paste(transform.apply(strip.convert("CMYK")) if transform else strip, box)
    return rgb


def _grey_to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Grey has 256 values, so a table converts it; a ramp through the profile makes the table."""
    ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
    if profile[16:20] == b"RGB ":
        ramp = ramp.convert("RGB")
    transform = _transform(profile, ramp.mode)
    if transform is None:
        return image
    tables = [list(table.tobytes()) for table in transform.apply(ramp).split()]
    if all(abs(table[grey] - grey) <= _ROUNDING for table in tables for grey in range(256)):
        return image
    alpha = [list(range(256))] if image.mode == "LA" else []
    if max(abs(a - b) for table in tables for a, b in zip(table, tables[0], strict=True)) <= 1:
        image, tables = _writable(image), tables[1:2]
    else:
        image = image.convert("RGBA" if alpha else "RGB")
    table = [value for channel in [*tables, *alpha] for value in channel]
    for box in _strips(image):
        image.paste(image.crop(box).point(table), box)
    return image


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes that cover `image` strip by strip: converting one at a time needs no second copy of a large image."""
    for top in range(0, image.height, _STRIP):
        yield 0, top, image.width, min(top + _STRIP, image.height)


def _writable(image: Image.Image) -> Image.Image:
    image.load()
    # littleCMS would write to an image over somebody else's buffer.
    return image.copy() if image.readonly else image


@lru_cache(maxsize=1)
def _srgb_profile() -> bytes:
    # Version 2, as littleCMS also scales the black point into a profile of version 4, and Chromium does not.
    return matrix_profile(_SRGB_PRIMARIES, _SRGB_CURVE, version=2)
