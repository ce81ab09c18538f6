"""Makes images as nobody should write them, byte by byte where Pillow would refuse.

All show the same 64 x 32 pixels, PATCHES, unless a function says otherwise. Each corner has a colour of its own, so
that turns and cuts show.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterable
from itertools import product

from PIL import Image

from m3agiqa import icc

WIDTH, HEIGHT = 64, 32


def _patches() -> Image.Image:
    chance = random.Random(5)
    colours = [(chance.randrange(20, 236), chance.randrange(20, 236), chance.randrange(20, 236)) for _ in range(32)]
    colours[0], colours[7] = (200, 40, 40), (60, 180, 75)
    colours[24], colours[31] = (128, 128, 128), (40, 80, 200)
    colours[20] = (220, 160, 60)  # right below the centre
    small = Image.new("RGB", (8, 4))
    small.putdata(colours)
    # Eight by eight pixels of one colour each, which a JPEG can hold.
    return small.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)


PATCHES = _patches()
TURNED = PATCHES.transpose(Image.Transpose.ROTATE_180)
#: 16 x 16 of one colour: a frame smaller than the image.
SMALL = Image.new("RGB", (16, 16), (0, 90, 200))


def clear(image: Image.Image, alpha: int | None = None) -> Image.Image:
    """`image` with an alpha of `alpha` all over, or from 0 at the top to 255 at the bottom."""
    image = image.convert("LA" if image.mode == "L" else "RGBA")
    ramp = Image.linear_gradient("L").resize(image.size)
    image.putalpha(ramp if alpha is None else alpha)
    return image


def encode(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


# ICC profiles. `m3agiqa.icc` writes all but the tables.

SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
D65 = (0.3127, 0.3290)
SRGB = (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
P3 = (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


def power(gamma: float) -> tuple[float, ...]:
    return (gamma, 1.0, 0.0, 0.0, 0.0)


ICC_SRGB = icc.matrix_profile(SRGB, SRGB_CURVE, version=2)
ICC_P3 = icc.matrix_profile(P3, SRGB_CURVE)
ICC_ADOBE = icc.matrix_profile(ADOBE, power(2.19921875))
ICC_LINEAR = icc.matrix_profile(SRGB, power(1))
#: Turns red into green, green into blue and blue into red, which nobody can overlook.
ICC_SWAPPED = icc.matrix_profile((*D65, 0.30, 0.60, 0.15, 0.06, 0.64, 0.33), SRGB_CURVE)
ICC_GREY = icc.make_profile(b"GRAY", {b"kTRC": icc.curve(*power(1))})
ICC_GARBAGE = b"garbage" * 50


def _tinting() -> bytes:
    def xyz(*numbers: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * number) for number in numbers))

    # sRGB's, but green weaker and blue much weaker, so that grey comes out yellowish.
    colorants = {
        b"rXYZ": (0.4361, 0.2225, 0.0139),
        b"gXYZ": (0.2851, 0.6169, 0.0971),
        b"bXYZ": (0.0431, 0.0206, 0.2141),
    }
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), icc.curve(*SRGB_CURVE))
    return icc.make_profile(b"RGB ", {name: xyz(*value) for name, value in colorants.items()} | curves)


ICC_TINTING = _tinting()


def table(inks: int, lab: Callable[..., tuple[float, float, float]], grid: int = 3) -> bytes:
    """A tag of type lut8 (ICC.1:2010, 10.9). `lab` maps `inks` samples from 0 to 1 to L*, a*, b*."""
    tag = b"mft1\0\0\0\0" + bytes([inks, 3, grid, 0]) + struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    tag += bytes(range(256)) * inks
    for point in product(range(grid), repeat=inks):
        lightness, a, b = lab(*(step / (grid - 1) for step in point))
        tag += bytes([round(lightness * 2.55), round(a) + 128, round(b) + 128])
    return tag + bytes(range(256)) * 3


_RGB_TABLE = table(3, lambda r, g, b: (100 * (r + g + b) / 3, 60 * (g - r), 60 * (r - b)))
_OTHER_TABLE = table(3, lambda r, g, b: (100 * g, 90 * (r - b), 0))
ICC_TABLE = icc.make_profile(b"RGB ", {b"A2B0": _RGB_TABLE}, pcs=b"Lab ", version=2)
ICC_TABLE_1 = icc.make_profile(b"RGB ", {b"A2B1": _RGB_TABLE}, pcs=b"Lab ", version=2)
ICC_TABLES = icc.make_profile(b"RGB ", {b"A2B1": _OTHER_TABLE, b"A2B0": _RGB_TABLE}, pcs=b"Lab ", version=2)
#: Has a darkest colour that is not black, and that a black point compensation would stretch.
ICC_CMYK = icc.make_profile(
    b"CMYK",
    {b"A2B0": table(4, lambda c, m, y, k: (15 + 85 * (1 - k) * (1 - c / 3) * (1 - m / 2), 60 * (m - c), 50 * (y - c)))},
    pcs=b"Lab ",
    version=2,
)

# EXIF


def tiff(orientation: int, *, kind: int = 3, count: int = 1, magic: int = 42) -> bytes:
    """The TIFF structure of an EXIF: one field, the orientation, of type `kind` (3 is SHORT, 4 LONG)."""
    value = struct.pack(">L", orientation) if kind == 4 else struct.pack(">HH", orientation, orientation * (count > 1))
    return struct.pack(">2sHLHHHL", b"MM", magic, 8, 1, 0x0112, kind, count) + value + bytes(4)


def xmp(orientation: int) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        f'tiff:Orientation="{orientation}"/></rdf:RDF></x:xmpmeta>'
    ).encode()


# PNG

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {"L": 0, "RGB": 2, "P": 3, "LA": 4, "RGBA": 6}


def chunk(kind: bytes, content: bytes, *, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


IEND = chunk(b"IEND", b"")


def header(width: int = WIDTH, height: int = HEIGHT, depth: int = 8, colour_type: int = 2, interlace: int = 0) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlace))


def rows(image: Image.Image) -> bytes:
    """The rows of `image`, each with its filter type 0."""
    size = image.width * len(image.getbands())
    raw = image.tobytes()
    return b"".join(b"\0" + raw[start : start + size] for start in range(0, len(raw), size))


def idat(data: bytes, *, crc: int | None = None) -> bytes:
    return chunk(b"IDAT", data, crc=crc)


def png(
    before: bytes = b"",
    *,
    image: Image.Image = PATCHES,
    body: bytes | None = None,
    after: bytes = b"",
    end: bytes = IEND,
) -> bytes:
    body = idat(zlib.compress(rows(image))) if body is None else body
    return header(*image.size, colour_type=_COLOUR_TYPES[image.mode]) + before + body + after + end


def samples(depth: int, colour_type: int, row: bytes, before: bytes = b"") -> bytes:
    """A PNG of eight rows `row` of any bit depth; colour type 0 is grey, 2 RGB, 3 palette."""
    width = len(row) * 8 // depth // (3 if colour_type == 2 else 1)
    return header(width, 8, depth, colour_type) + before + idat(zlib.compress((b"\0" + row) * 8)) + IEND


def shorts(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def trns(*values: int) -> bytes:
    return chunk(b"tRNS", shorts(*values))


def gama(gamma: int, **options: int) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", gamma), **options)


def chrm(chromaticities: tuple[float, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in chromaticities)))


def iccp(profile: bytes, name: bytes = b"name", **options: int) -> bytes:
    return chunk(b"iCCP", name + b"\0\0" + zlib.compress(profile), **options)


def cicp(primaries: int, transfer: int, *, matrix: int = 0, full_range: int = 1) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, matrix, full_range]))


def exif(orientation: int, *, prefix: bytes = b"", crc: int | None = None, **options: int) -> bytes:
    return chunk(b"eXIf", prefix + tiff(orientation, **options), crc=crc)


PALETTED = PATCHES.quantize(32)


def palette_png(before: bytes = b"", between: bytes = b"", *, after_pixels: bytes = b"", **options: int) -> bytes:
    """PALETTED, with chunks before and after its palette."""
    palette = PALETTED.getpalette() or []
    return png(before + chunk(b"PLTE", bytes(palette[:96]), **options) + between, image=PALETTED, after=after_pixels)


def interlaced() -> bytes:
    data = b""
    for left, top, across, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
    ):  # fmt: skip
        for y in range(top, HEIGHT, down):
            row = PATCHES.crop((0, y, WIDTH, y + 1)).tobytes()
            data += b"\0" + b"".join(row[3 * x : 3 * x + 3] for x in range(left, WIDTH, across))
    return header(interlace=1) + idat(zlib.compress(data)) + IEND


# APNG


def actl(frames: int) -> bytes:
    return chunk(b"acTL", struct.pack(">II", frames, 0))


def fctl(number: int, size: tuple[int, int] = (WIDTH, HEIGHT), at: tuple[int, int] = (0, 0), how: int = 0) -> bytes:
    """A frame's control chunk; `how` is 256 times the disposal plus the blending."""
    return chunk(b"fcTL", struct.pack(">IIIIIHHH", number, *size, *at, 1, 10, how))


def fdat(number: int, image: Image.Image) -> bytes:
    return chunk(b"fdAT", struct.pack(">I", number) + zlib.compress(rows(image)))


def hidden(*frames: bytes, before: bytes = b"", count: int = 2, image: Image.Image = PATCHES) -> bytes:
    """An APNG whose image data is no frame; only viewers that know no APNG show it."""
    return png(before + actl(count), image=image, after=b"".join(frames))


# JPEG


def jpeg(image: Image.Image = PATCHES, **options: object) -> bytes:
    return encode(image, "JPEG", **{"quality": 95, "subsampling": 0} | options)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segments(*segments: bytes, data: bytes | None = None) -> bytes:
    """A JPEG with these segments behind JFIF's, or at its start if it has no JFIF segment."""
    data = jpeg() if data is None else data
    at = 4 + int.from_bytes(data[4:6]) if data[2:4] == b"\xff\xe0" else 2
    return data[:at] + b"".join(segments) + data[at:]


def app1(orientation: int, *, start: bytes = b"Exif\0\0", **options: int) -> bytes:
    return segment(0xE1, start + tiff(orientation, **options))


def icc_segments(profile: bytes, order: Iterable[int] = (1,), *, parts: int = 1, total: int | None = None) -> bytes:
    """A profile cut into `parts`, of which those numbered in `order` are here; each claims that there are `total`."""
    size = -(-len(profile) // parts)
    return b"".join(
        segment(0xE2, b"ICC_PROFILE\0" + bytes([n, total or parts]) + profile[size * (n - 1) : size * n]) for n in order
    )


def cmyk() -> Image.Image:
    black = Image.linear_gradient("L").resize((WIDTH, HEIGHT)).point(lambda value: value // 2)
    return Image.merge("CMYK", [*PATCHES.split(), black])


def adobe(data: bytes, transform: int | None) -> bytes:
    """A JPEG with another transform in its Adobe segment, or without that segment."""
    at = data.index(b"\xff\xee")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
    return data[:at] + (b"" if transform is None else data[at : end - 1] + bytes([transform])) + data[end:]


# WEBP


def _riff(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def webp(*parts: tuple[bytes, bytes]) -> bytes:
    return _riff(b"RIFF", b"WEBP" + b"".join(_riff(*part) for part in parts))


def pixels(image: Image.Image = PATCHES) -> tuple[bytes, bytes]:
    """The chunk with a lossless image's pixels."""
    data = encode(image, "WEBP", lossless=True, exact=True)
    at = data.index(b"VP8L")
    return b"VP8L", data[at + 8 : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")]


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")


#: Flags of VP8X.
ANIMATED, XMP, EXIF, ALPHA, ICC = 2, 4, 8, 16, 32


def vp8x(flags: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> tuple[bytes, bytes]:
    return b"VP8X", bytes([flags, 0, 0, 0]) + _three(size[0] - 1) + _three(size[1] - 1)


#: The background is an opaque red.
ANIM = (b"ANIM", bytes([0, 0, 255, 255, 0, 0]))


def anmf(image: Image.Image, at: tuple[int, int] = (0, 0), flags: int = 0) -> tuple[bytes, bytes]:
    place = b"".join(map(_three, (at[0] // 2, at[1] // 2, image.width - 1, image.height - 1, 100)))
    return b"ANMF", place + bytes([flags]) + _riff(*pixels(image))


# GIF

_GIF_PALETTE = bytes((PALETTED.getpalette() or [])[:96]).ljust(768, b"\0")


def gif(*parts: bytes, size: tuple[int, int] = (WIDTH, HEIGHT), background: int = 0) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", *size, 0x87, background, 0) + _GIF_PALETTE + b"".join(parts) + b";"


def gif_frame(image: Image.Image = PALETTED, at: tuple[int, int] = (0, 0), *, interlace: bool = False) -> bytes:
    """A frame of uncompressed codes of nine bits; the table starts over before a code would need ten."""
    raw = image.tobytes()
    numbers = [code for start in range(0, len(raw), 250) for code in (256, *raw[start : start + 250])]
    bits = sum(code << 9 * n for n, code in enumerate([*numbers, 257]))
    data = bits.to_bytes(-(-9 * (len(numbers) + 1) // 8), "little")
    blocks = b"".join(bytes([len(data[n : n + 255])]) + data[n : n + 255] for n in range(0, len(data), 255))
    return b"," + struct.pack("<HHHHB", *at, *image.size, 0x40 * interlace) + b"\x08" + blocks + b"\0"


def gif_control(disposal: int = 0, transparent: int | None = None) -> bytes:
    flags = disposal << 2 | (transparent is not None)
    return b"!\xf9\4" + struct.pack("<BHBB", flags, 10, transparent or 0, 0)


# AVIF


def avif(image: Image.Image = PATCHES, **options: object) -> bytes:
    return encode(image, "AVIF", **{"quality": 100, "subsampling": "4:4:4", "speed": 8} | options)


def nclx(primaries: int, transfer: int, **options: bytes) -> bytes:
    data = avif(PATCHES, **options)
    at = data.index(b"colrnclx") + 8
    return data[:at] + shorts(primaries, transfer) + data[at + 4 :]
