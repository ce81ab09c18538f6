"""Colours as a browser shows them: what a file says of its samples, turned into sRGB.

The rules are those of Chromium 156, found by experiment (tests/m3agiqa/test_images_as_shown.py asks it anew).
littleCMS, by way of Pillow, does all conversions: what a PNG or an AVIF says in numbers is first written as an ICC
profile.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from PIL import Image, ImageCms

#: Bytes. A larger profile is ignored; those of printing presses, the largest in use, have 0.5 to 3 MB.
MAX_PROFILE = 4 << 20
#: Greatest difference, of 255, that counts as none. A profile that moves no colour by more says "sRGB" in other words.
_ROUNDING = 2
#: Rows that are worked on at a time.
_STRIP = 256

# Transfer characteristics (ITU-T H.273, table 3) as parameters g, a, b, c, d of the curve that ICC.1:2010, 10.16, calls
# function type 3: linear = (a * sample + b) ** g from d on, c * sample below. Not here and so ignored: 9, 10 and 12, as
# by Chromium, and the two of HDR, 16 (PQ) and 18 (HLG), which Chromium maps to the screen's range by the brightest
# channel of each pixel, as no matrix and curves can.
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# The curve of video: the table gives the camera's; Chromium takes the screen's (ITU-R BT.1886).
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

_Vector = tuple[float, float, float]
_Matrix = tuple[_Vector, _Vector, _Vector]

#: X, Y, Z of the white that profiles are made for (ICC.1:2010, 7.2.16).
_D50: _Vector = (0.9642, 1.0, 0.8249)
# Matrix from X, Y, Z to what Bradford takes for the eye's three cones (ICC.1:2010, annex E).
_BRADFORD: _Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


@dataclass(frozen=True)
class Colour:
    """How a file says its samples are to be understood. Where it says several things, the first of `cicp`, `icc`,
    `srgb`, `gamma` that can be understood holds.
    """

    #: An ICC profile, as it stood in the file.
    icc: bytes | None = None
    #: PNG's sRGB chunk.
    srgb: bool = False
    #: PNG's gAMA: 100,000 times the encoding exponent.
    gamma: int | None = None
    #: PNG's cHRM: white x y, red x y, green x y, blue x y, times 100,000. Says nothing without `gamma`.
    chromaticities: tuple[int, ...] | None = None
    #: PNG's cICP, full range: colour primaries and transfer characteristics, numbers of ITU-T H.273.
    cicp: tuple[int, int] | None = None

    @classmethod
    def from_nclx(cls, primaries: int, transfer: int) -> Colour:
        """What an AVIF's `nclx` box says. Chromium takes unknown numbers for sRGB's there, and the curve of video (1,
        6, 14, 15) too, where in a PNG it ignores the former and obeys the latter.
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
        The same object, changed in place, of mode L, LA, RGB or RGBA; a new one of mode RGB where CMYK came, and of
        mode RGB or RGBA where a profile gives grey a tint. What cannot be understood, or does not fit the image's
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
    """The ICC profile that says what `colour` says; None for sRGB."""
    if colour.cicp is not None and (written := _numbered_profile(*colour.cicp)):
        return written
    if colour.icc is not None and _opens(colour.icc):
        return colour.icc
    if colour.srgb or colour.gamma is None:
        return None
    return _gamma_profile(colour.gamma, colour.chromaticities)


def _opens(icc: bytes) -> bool:
    # What Chromium refuses, though littleCMS does not: a profile that is cut off, and those of ICC.2 (version 5).
    if not 132 <= len(icc) <= MAX_PROFILE or int.from_bytes(icc[:4]) > len(icc) or icc[8] > 4:
        return False
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except Exception:
        # A stranger's bytes: whatever littleCMS says of them, the image is shown as if they were not there.
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
    # (PNG specification, 11.3.2.5). Alone, Chromium forgives five per cent. With the primaries it takes the number by
    # its word, which darkens the shadows by up to 9 of 255; here such images stay what the reference model reads.
    if 0.95 <= gamma * 2.2 / 100_000 <= 1.05 and (chromaticities is None or (srgb and 45_000 <= gamma <= 46_000)):
        return None
    try:
        return matrix_profile(primaries, (min(100_000 / gamma, 1000.0), 1.0, 0.0, 0.0, 0.0))
    except (ArithmeticError, ValueError, struct.error):
        return None  # no light at all, or primaries that span no colours


@lru_cache(maxsize=8)  # at most 8 profiles of MAX_PROFILE bytes; a stream of images has one or two
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Pillow's transform from `profile` to sRGB, for images of `mode`; None where it would change nothing, or where
    littleCMS refuses.
    """
    output = "RGBA" if mode == "RGBA" else "RGB"
    end = min(132 + 12 * int.from_bytes(profile[128:132]), len(profile))
    tags = [profile[at : at + 4] for at in range(132, end, 12)]
    # Chromium takes A2B0, else A2B1, else matrix and curves. littleCMS skips what is not of the intent it is asked for.
    by_table = b"A2B1" in tags and b"A2B0" not in tags
    try:
        transform = ImageCms.ImageCmsTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.ImageCmsProfile(io.BytesIO(_srgb_profile())),
            mode,
            output,
            ImageCms.Intent.RELATIVE_COLORIMETRIC if by_table else ImageCms.Intent.PERCEPTUAL,
            # Grey is converted 256 samples at a time, so exactness costs nothing.
            flags=ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE,
        )
        return None if output == mode and _moves_nothing(transform, mode) else transform
    except Exception:
        # As in _opens: littleCMS looks at most of a profile only now.
        return None


def _moves_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a lattice of colours stays where it is, within _ROUNDING."""
    steps = range(0, 256, 17)
    colours = Image.new("RGB", (16 * 16 * 16, 1))
    colours.putdata(list(product(steps, steps, steps)))
    moved = transform.apply(colours.convert(mode)).convert("RGB")
    return all(abs(a - b) <= _ROUNDING for a, b in zip(colours.tobytes(), moved.tobytes(), strict=True))


def _cmyk_to_srgb(image: Image.Image, transform: ImageCms.ImageCmsTransform | None) -> Image.Image:
    """Chromium mixes black into the other three inks first. A profile sees what comes of that: three inks, no black."""
    rgb = Image.new("RGB", image.size)
    for box in _strips(image):
        strip = image.crop(box).convert("RGB")
        # From RGB Pillow makes the inks' complements, and no black.
        rgb.paste(transform.apply(strip.convert("CMYK")) if transform else strip, box)
    return rgb


def _grey_to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Grey has 256 colours: a table of them does, made from a ramp."""
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
    """Boxes that cover `image`, so that no second copy of a large one is needed to work on it."""
    for top in range(0, image.height, _STRIP):
        yield 0, top, image.width, min(top + _STRIP, image.height)


def _writable(image: Image.Image) -> Image.Image:
    image.load()
    # Images over a buffer of somebody else's must not be written to, and littleCMS would.
    return image.copy() if image.readonly else image


@lru_cache(maxsize=1)
def _srgb_profile() -> bytes:
    # Version 2: into a profile of version 4 littleCMS also scales the black point, which Chromium does not.
    return matrix_profile(_SRGB_PRIMARIES, _SRGB_CURVE, version=2)


def matrix_profile(chromaticities: tuple[float, ...], parameters: tuple[float, ...], *, version: int = 4) -> bytes:
    """An ICC profile of a display (ICC.1:2010: header 7.2, tags 7.3, three-component matrix-based 8.4.3).

    Args:
        chromaticities: x and y of white, red, green and blue (CIE 1931).
        parameters: g, a, b, c, d of the three channels' curve.
        version: of the ICC's specification, 2 or 4.

    Raises:
        ValueError: the primaries span no colours.
        ArithmeticError, struct.error: numbers that the profile cannot hold.
    """
    red, green, blue = _colorants(chromaticities)
    tags = {
        b"desc": _text("as the image says"),
        b"cprt": _text("none"),
        b"wtpt": _xyz(_D50),
        b"rXYZ": _xyz(red),
        b"gXYZ": _xyz(green),
        b"bXYZ": _xyz(blue),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(*parameters)),
    }
    return make_profile(b"RGB ", tags, version=version)


def make_profile(space: bytes, tags: dict[bytes, bytes], *, pcs: bytes = b"XYZ ", version: int = 4) -> bytes:
    """A profile of `tags` for samples of `space`, with a header around it (ICC.1:2010, 7.2 and 7.3)."""
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s28x", start + len(data), version << 24, b"mntr", space, pcs, b"acsp")
    header += _fixed(_D50)
    return header.ljust(128, b"\0") + table + data


def curve(*parameters: float) -> bytes:
    """A curve tag: g, a, b, c and d of a parametric curve of type 3 (ICC.1:2010, 10.16)."""
    return b"para\0\0\0\0\0\3\0\0" + _fixed(parameters)


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII4sII", 1, 12, b"enUS", len(data), 28) + data


def _xyz(vector: _Vector) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(vector)


def _fixed(numbers: tuple[float, ...]) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _colorants(chromaticities: tuple[float, ...]) -> list[_Vector]:
    """X, Y, Z of full red, green and blue, adapted to D50 as ICC.1:2010, annex E, says."""
    (white_x, white_y), *primaries = zip(chromaticities[::2], chromaticities[1::2], strict=True)
    white = (white_x / white_y, 1.0, (1 - white_x - white_y) / white_y)
    red, green, blue = ((x, y, 1 - x - y) for x, y in primaries)
    to_light = _inverse(tuple(zip(red, green, blue, strict=True)))  # type: ignore[arg-type]  # three of three
    from_cones = _inverse(_BRADFORD)
    here, there = _times(_BRADFORD, white), _times(_BRADFORD, _D50)
    colorants = []
    for column, light in zip((red, green, blue), _times(to_light, white), strict=True):
        cones = _times(_BRADFORD, (column[0] * light, column[1] * light, column[2] * light))
        x, y, z = (cone * b / a for cone, a, b in zip(cones, here, there, strict=True))
        colorants.append(_times(from_cones, (x, y, z)))
    return colorants


def _times(matrix: _Matrix, vector: _Vector) -> _Vector:
    x, y, z = (sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)
    return x, y, z


def _inverse(matrix: _Matrix) -> _Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if abs(determinant) < 1e-9:
        raise ValueError("primaries that span no colours")
    rows = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    x, y, z = ((row[0] / determinant, row[1] / determinant, row[2] / determinant) for row in rows)
    return x, y, z
