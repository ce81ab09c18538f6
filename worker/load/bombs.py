"""Images that cost decoders seconds or gigabytes: what `worker.load.hostile` attacks a worker with.

`BOMBS` holds a maker for each. Most write the file by hand, within milliseconds, in the fewest bytes that a decoder
still believes; none is larger than what a worker fetches.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from PIL import Image

from m3agiqa.containers.png import SIGNATURE, chunk
from m3agiqa.icc import make_profile

#: Pixels a side. 8192 x 8192 are almost as many as are let through.
_LARGE = 8192
#: Pixels a side of an image that looks as light as any, and is decoded beside them.
_LIGHT = 2100
_SMALL = 64
#: Bytes of a file, a little below what is fetched at most (32 MiB).
_MOST = 32 * 2**20 - 4096

# --- JPEG

_SOF0, _SOF2, _SOF10, _DHT, _SOS, _DQT, _DRI, _APP5, _APP14 = 0xC0, 0xC2, 0xCA, 0xC4, 0xDA, 0xDB, 0xDD, 0xE5, 0xEE
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
#: Blocks that one code of a progressive scan leaves as they are: symbol 0xE0 and 14 bits, all set.
_RUN = 32767


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def _frame(kind: int, side: int, components: int) -> bytes:
    """Tables and the header of a square frame. Each table of codes has one code, a zero bit: for DC "as before", for AC
    "nothing more" in a sequential frame, and a run of _RUN blocks in a progressive one.
    """
    sampling = b"".join(bytes([number, 0x11, 0]) for number in range(1, 1 + components))
    codes = bytes([1, *[0] * 15])
    return (
        _segment(_DQT, bytes([0, *[1] * 64]))
        + _segment(kind, struct.pack(">BHHB", 8, side, side, components) + sampling)
        + _segment(_DHT, b"\x00" + codes + b"\x00")
        + _segment(_DHT, b"\x10" + codes + (b"\xe0" if kind == _SOF2 else b"\x00"))
    )


def _scan(components: Sequence[int], band: tuple[int, int], approximation: int, samples: bytes) -> bytes:
    chosen = b"".join(bytes([number, 0]) for number in components)
    return _segment(_SOS, bytes([len(components)]) + chosen + bytes([*band, approximation])) + samples


def _idle(side: int) -> bytes:
    """Samples of a progressive scan that changes no block of a square image."""
    runs = -(-((side // 8) ** 2) // _RUN)
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00")


def _progressive(side: int, scans: int, *, refining: bool = True, components: int = 1, kind: int = _SOF2) -> bytes:
    """A flat image whose `scans` scans, but for the first, do nothing. Those that refine look at every coefficient
    all the same. With arithmetic coding a scan needs no samples to be decoded.
    """
    everything = range(1, 1 + components)
    coded = kind == _SOF2
    first = _scan(everything, (0, 0), 0, bytes(coded * components * (side // 8) ** 2 // 8))
    adobe = _segment(_APP14, b"Adobe\0\x64\0\0\0\0\0") if components == 4 else b""
    idle = _idle(side) if coded else b""
    rest = b"".join(_scan([number], (1, 63), 0x10 if refining else 0, idle) for number in everything)
    return _SOI + adobe + _frame(kind, side, components) + first + rest * ((scans - 1) // components) + _EOI


def _small_jpeg(*, before: bytes = b"", amid: bytes = b"") -> bytes:
    """A sound image with something in front of its tables, or amid its samples."""
    samples = bytes((_SMALL // 8) ** 2 // 8)
    return _SOI + before + _frame(_SOF0, _SMALL, 1) + _scan([1], (0, 63), 0, samples + amid + samples) + _EOI


def jpeg_restarts() -> bytes:
    """A restart marker behind each of a million blocks."""
    blocks = (_LARGE // 8) ** 2
    samples = b"".join(b"\x3f\xff" + bytes([0xD0 + number]) for number in range(8)) * (blocks // 8)
    return _SOI + _segment(_DRI, b"\0\1") + _frame(_SOF0, _LARGE, 1) + _scan([1], (0, 63), 0, samples) + _EOI


# --- PNG

#: Colour types, and the channels of each.
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}


def _deflated(block: bytes, times: int) -> bytes:
    """`block` so many times over, as zlib packs it; quickly, as it is packed once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 1
    for _ in range(times):
        checksum = zlib.adler32(block, checksum)
    return b"\x78\xda" + packed * times + b"\x03\x00" + struct.pack(">I", checksum)


def _png(
    side: int,
    colour: int,
    depth: int = 8,
    *,
    interlaced: bool = False,
    pixels: bytes | None = None,
    before: Iterable[bytes] = (),
    behind: Iterable[bytes] = (),
) -> bytes:
    """A square image, flat if no `pixels` are given, with chunks of all sorts before and behind them."""
    if pixels is None:
        row = bytes(1 + _CHANNELS[colour] * depth * side // 8)
        # The rows of an interlaced image are shorter and more, and all zeros too.
        pixels = _deflated(row * 4, side // 4 + interlaced)
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, interlaced)
    idat, end = chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"".join([SIGNATURE, chunk(b"IHDR", header), *before, idat, *behind, end])


def _png_chunks(kind: bytes) -> bytes:
    empty = chunk(kind, b"")
    return _png(_SMALL, _RGB, before=[empty * (_MOST // len(empty) - 100)])


def _png_texts() -> bytes:
    text = chunk(b"zTXt", b"k\0\0" + _deflated(b"A" * 2**20, 1))
    return _png(_SMALL, _RGB, before=[text * 20_000])


def _profile(size: int) -> bytes:
    """The table of colours with which a profile of about `size` bytes brings RGB to Lab (ICC.1:2010, 10.10, lut16)."""
    steps = int((size / 6) ** (1 / 3))
    table = struct.pack(">4s4xBBBx9iHH", b"mft2", 3, 3, steps, *[65536, 0, 0, 0, 65536, 0, 0, 0, 65536], 2, 2)
    ramp = struct.pack(">2H", 0, 65535)
    table += ramp * 3 + random.Random(1).randbytes(6 * steps**3) + ramp * 3
    white = struct.pack(">4s4x3i", b"XYZ ", 63190, 65536, 54061)
    return make_profile(b"RGB ", {b"wtpt": white, b"A2B0": table}, pcs=b"Lab ", version=2)


def _png_colours(side: int) -> bytes:
    """A large table of colours for an image whose pixels hit it at random places."""
    rows = (b"\0" + random.Random(2).randbytes(3 * side)) * 64
    profile = chunk(b"iCCP", b"n\0\0" + zlib.compress(_profile(4 * 2**20 - 4096), 1))
    return _png(side, _RGB, pixels=_deflated(rows, side // 64), before=[profile])


def png_light() -> bytes:
    """An image that looks light, with all that makes a PNG slow: many chunks, passes, 16 bits, a filter that predicts
    from three pixels, one colour that is transparent, and a large table of colours.
    """
    before = [
        chunk(b"iCCP", b"n\0\0" + zlib.compress(_profile(4 * 2**20 - 4096), 1)),
        chunk(b"tRNS", bytes(6)),
        chunk(b"teXt", b"") * 190_000,
    ]
    row = b"\4" + random.Random(2).randbytes(6 * _LIGHT)
    return _png(_LIGHT, _RGB, 16, pixels=_deflated(row * 50, _LIGHT // 50), before=before)


def png_frames() -> bytes:
    """An animation that shows a small image; each of its frames inflates to 200 MB, and none comes first."""
    control = chunk(b"acTL", struct.pack(">II", 100, 0))

    def frame(number: int) -> bytes:
        numbers = number, _SMALL, _SMALL, 0, 0, 1, 10, 0, 0
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", *numbers))

    packed = _deflated(bytes(2**20), 200)
    hidden = [
        part
        for number in range(1, 100)
        for part in (frame(2 * number - 1), chunk(b"fdAT", struct.pack(">I", 2 * number) + packed))
    ]
    return _png(_SMALL, _RGB, before=[control, frame(0)], behind=hidden)


def _directory(tags: int, size: int) -> bytes:
    """A TIFF structure with so many tags of fractions, which all say that they are the same `size` bytes."""
    entries = b"".join(struct.pack("<HHII", 0xFFFF - tag, 5, size // 8, 8) for tag in range(tags))
    return (b"II*\0" + struct.pack("<IH", 8, tags) + entries).ljust(size + 16, b"\0")


class _Bits:
    """Bits as GIF and WEBP have them, the lowest first."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def put(self, value: int, count: int) -> _Bits:
        self._parts.append(format(value, f"0{count}b")[::-1])
        return self

    def repeat(self, other: _Bits, times: int) -> _Bits:
        self._parts.append("".join(other._parts) * times)
        return self

    def __bytes__(self) -> bytes:
        bits = "".join(self._parts)
        return int(bits[::-1], 2).to_bytes(-(-len(bits) // 8), "little")


# --- GIF


def _gif(side: int, codes: bytes, *, bits: int = 8, before: bytes = b"", times: int = 1) -> bytes:
    """A square image from LZW codes (in blocks of 255 bytes at most) of so many bits, repeated as a frame."""
    screen = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    frame = struct.pack("<BHHHHBB", 0x2C, 0, 0, side, side, 0, bits) + codes + b"\0"
    return screen + before + frame * times + b";"


def _blocks(data: bytes) -> bytes:
    parts = (data[at : at + 255] for at in range(0, len(data), 255))
    return b"".join(bytes([len(part)]) + part for part in parts)


#: One pixel: clear, 0, end, in three bits each.
_DOT = b"\x02\x44\x01"


def gif_flat() -> bytes:
    """67 million pixels in 30 KB: each code stands for one pixel more than the one before, 3,839 in the end."""
    clear, first, last = 256, 258, 4095
    codes = [(clear, 9), (0, 9), *((code, max(9, code.bit_length())) for code in range(first, last + 1))]
    longest = last - first + 2
    missing = _LARGE**2 - longest * (longest + 1) // 2
    bits = _Bits()
    for code, length in [*codes, *[(last, 12)] * -(-missing // longest)]:
        bits.put(code, length)
    return _gif(_LARGE, _blocks(bytes(bits)))


# --- WEBP


def _webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _riff(kind: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(content)) + content + b"\0" * (len(content) % 2)


def _vp8l(side: int, bits: _Bits, pixels: bytes = b"") -> bytes:
    """A lossless image without alpha; `bits` come behind its header."""
    header = side - 1 | side - 1 << 14
    return _riff(b"VP8L", b"\x2f" + header.to_bytes(4, "little") + bytes(bits) + pixels)


def _only(*symbols: int) -> _Bits:
    """Codes with one symbol each, on which pixels spend no bit."""
    bits = _Bits()
    for symbol in symbols:
        bits.put(0b101, 3).put(symbol, 8)
    return bits


def _bytewise(alphabets: int) -> _Bits:
    """Codes in which each of 256 symbols has eight bits. Among the codes of lengths only that of 8 exists, which is
    the twelfth; 256 lengths follow.
    """
    return _Bits().repeat(_Bits().put(0, 1).put(8, 4).put(0, 33).put(1, 3).put(1, 1).put(3, 3).put(254, 8), alphabets)


def _flat_vp8l(side: int) -> bytes:
    return _vp8l(side, _Bits().put(0, 3).repeat(_only(0, 0, 0, 0, 0), 1))


def webp_predicted() -> bytes:
    """Each pixel predicted from those around it in the slowest of all ways, then its colours mixed."""
    bits = _Bits()
    for transform, symbols in ((0, (11, 0, 0, 0, 0)), (1, (3, 5, 7, 0, 0))):
        # In blocks of 512 pixels, each with the same parameters.
        bits.put(1, 1).put(transform, 2).put(7, 3).put(0, 1).repeat(_only(*symbols), 1)
    bits.put(1, 1).put(2, 2)
    return _webp(_vp8l(_LARGE, bits.put(0, 3).repeat(_only(1, 2, 3, 0, 0), 1)))


def webp_codes() -> bytes:
    """An image that looks light, with 65,536 groups of codes, each of which is a table of kilobytes in memory."""
    # Groups change every four pixels; an image of its own holds their numbers, in red and green.
    bits = _Bits().put(0, 2).put(1, 1).put(0, 3).put(0, 1).repeat(_bytewise(2), 1).repeat(_only(0, 0, 0), 1)
    for block in range((_LIGHT // 4) ** 2):
        bits.put(-1 - block & 0xFFFF, 16)
    bits.repeat(_bytewise(4).repeat(_only(0), 1), 2**16)
    return _webp(_vp8l(_LIGHT, bits, random.Random(1).randbytes(4 * _LIGHT**2)))


def _animation(side: int, frames: int) -> bytes:
    """Small frames on a canvas of that size."""
    corner = (side - 1).to_bytes(3, "little")
    frame = bytes(6) + (_SMALL - 1).to_bytes(3, "little") * 2 + bytes([100, 0, 0, 0]) + _flat_vp8l(_SMALL)
    return _webp(
        _riff(b"VP8X", bytes([2, 0, 0, 0]) + corner + corner), _riff(b"ANIM", bytes(6)), _riff(b"ANMF", frame) * frames
    )


# --- AVIF


def _box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _full_box(kind: bytes, *contents: bytes, version: int = 0) -> bytes:
    return _box(kind, bytes([version, 0, 0, 0]), *contents)


def _avif(*properties: bytes, items: Sequence[tuple[bytes, bytes, Sequence[int]]], references: bytes = b"") -> bytes:
    """A file of `items`, the first of which is the image: kind, content, and which of the properties (from 1) it has.
    Items of the same content share it.
    """
    start = _box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    contents, places = b"", {content: 0 for _, content, _ in items}
    for content in places:
        places[content] = len(start) + 8 + len(contents)
        contents += content
    locations, infos, owners = [], [], []
    for number, (kind, content, owned) in enumerate(items, 1):
        locations.append(struct.pack(">HHHII", number, 0, 1, places[content], len(content)))
        infos.append(_full_box(b"infe", struct.pack(">HH4sx", number, 0, kind), version=2))
        owners.append(struct.pack(">HB", number, len(owned)) + bytes(owned))
    count = struct.pack(">H", len(items))
    return b"".join([
        start,
        _box(b"mdat", contents),
        _full_box(
            b"meta",
            _full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
            _full_box(b"pitm", b"\0\1"),
            _full_box(b"iloc", b"\x44\0", count, *locations),
            _full_box(b"iinf", count, *infos),
            _full_box(b"iref", references),
            _box(b"iprp", _box(b"ipco", *properties), _full_box(b"ipma", bytes(2), count, *owners)),
        ),
    ])  # fmt: skip


def _coded(side: int) -> tuple[bytes, bytes, bytes]:
    """A flat image in AV1: its samples, and two properties: how they are coded, and how many bits they have."""
    file = _saved(Image.new("RGB", (side, side), "grey"), "AVIF", speed=10)

    def content(kind: bytes) -> bytes:
        at = file.index(kind) - 4
        return file[at + 8 : at + int.from_bytes(file[at : at + 4])]

    return content(b"mdat"), _box(b"av1C", content(b"av1C")), _box(b"pixi", content(b"pixi"))


def _extent(side: int) -> bytes:
    return _full_box(b"ispe", struct.pack(">II", side, side))


def avif_grid() -> bytes:
    """67 million pixels in 16,384 tiles, each with a decoder of its own."""
    across = _LARGE // _SMALL
    samples, coding, depth = _coded(_SMALL)
    grid = struct.pack(">BBBBHH", 0, 0, across - 1, across - 1, _LARGE, _LARGE)
    tiles = range(2, 2 + across**2)
    return _avif(
        _extent(_LARGE), depth, coding, _extent(_SMALL),
        items=[(b"grid", grid, [1, 2]), *[(b"av01", samples, [0x83, 4, 2])] * len(tiles)],
        references=_box(b"dimg", struct.pack(f">HH{len(tiles)}H", 1, len(tiles), *tiles)),
    )  # fmt: skip


def avif_directory() -> bytes:
    """A small image that is to be turned, with a million fractions in its EXIF."""
    samples, coding, depth = _coded(_SMALL)
    return _avif(
        _extent(_SMALL), depth, coding, _box(b"irot", b"\1"),
        items=[(b"av01", samples, [1, 2, 0x83, 0x84]), (b"Exif", bytes(4) + _directory(1, 2**23), [])],
        references=_box(b"cdsc", struct.pack(">HHH", 2, 1, 1)),
    )  # fmt: skip


def _avif_items() -> bytes:
    """Places of three million items in one box, among which each new one is looked for."""
    count = (_MOST - 200) // 10
    places = b"".join(struct.pack(">I6x", number) for number in range(1, 1 + count))
    return _box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf") + _full_box(
        b"meta",
        _full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
        _full_box(b"pitm", b"\0\1"),
        _full_box(b"iloc", bytes(2), struct.pack(">I", count), places, version=2),
    )


# --- Those that an encoder writes


def _saved(image: Image.Image, format_: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def _noise(side: int, format_: str, **options: object) -> bytes:
    noise = Image.frombytes("RGB", (2048, 2048), random.Random(1).randbytes(3 * 2048**2))
    return _saved(noise.resize((side, side)), format_, **options)


#: Makers by the names of what they make: the format, and what is wrong with it.
BOMBS: dict[str, Callable[[], bytes]] = {
    "jpeg-scans": partial(_progressive, _LARGE, 12_000, refining=False),
    "jpeg-refinements": partial(_progressive, 2000, 1750),
    "jpeg-nearly": partial(_progressive, 2000, 160),
    "jpeg-arithmetic": partial(_progressive, _LARGE, 104, kind=_SOF10),
    "jpeg-cmyk": partial(_progressive, _LARGE, 101, components=4),
    "jpeg-fill": lambda: _small_jpeg(before=b"\xff" * (_MOST - 500)),
    "jpeg-segments": lambda: _small_jpeg(before=_segment(_APP5, b"") * (_MOST // 4 - 200)),
    "jpeg-markers": lambda: _small_jpeg(amid=b"\xff\xd0\xff\xd1" * (_MOST // 4 - 200)),
    "jpeg-stuffing": lambda: _small_jpeg(amid=b"\xff\xff\0" * (_MOST // 3 - 200)),
    "jpeg-restarts": jpeg_restarts,
    "png-chunks": partial(_png_chunks, b"teXt"),
    "png-idats": partial(_png_chunks, b"IDAT"),
    "png-texts": _png_texts,
    "png-profile": lambda: _png(_SMALL, _RGB, before=[chunk(b"iCCP", b"n\0\0" + _deflated(bytes(2**20), 900))]),
    "png-directory": lambda: _png(_SMALL, _RGB, before=[chunk(b"eXIf", _directory(60_000, 2**23))]),
    "png-rgba": partial(_png, _LARGE, _RGBA),
    "png-rgb": partial(_png, _LARGE, _RGB),
    "png-la": partial(_png, _LARGE, _GREY_ALPHA),
    "png-grey16": partial(_png, _LARGE, _GREY, 16),
    "png-palette": lambda: _png(_LARGE, _PALETTE, before=[chunk(b"PLTE", bytes(3))]),
    "png-interlaced": partial(_png, _LARGE, _RGBA, interlaced=True),
    "png-transparent": lambda: _png(4096, _RGB, 16, before=[chunk(b"tRNS", bytes(6))]),
    "png-colours": lambda: _png_colours(_LARGE),
    "png-frames": png_frames,
    "png-light": png_light,
    "gif-comment": lambda: _gif(_SMALL, _DOT, bits=2, before=b"\x21\xfe" + b"\1A" * (_MOST // 2 - 200) + b"\0"),
    "gif-frames": lambda: _gif(1, _DOT, bits=2, times=2_000_000),
    "gif-flat": gif_flat,
    "gif-clears": lambda: _gif(_SMALL, _blocks(b"\x24\x49\x92" * 85) * (_MOST // 256 - 2), bits=2),
    "webp-flat": lambda: _webp(_flat_vp8l(_LARGE)),
    "webp-predicted": webp_predicted,
    "webp-codes": webp_codes,
    "webp-noise": partial(_noise, _LARGE, "WEBP", quality=60, method=0),
    "webp-canvas": partial(_animation, 16_383, 1),
    "webp-frames": partial(_animation, _LARGE, 150_000),
    "avif-flat": lambda: _saved(Image.new("RGB", (_LARGE, _LARGE), "grey"), "AVIF", speed=10, quality=10),
    "avif-noise": partial(_noise, 6000, "AVIF", speed=10, quality=60),
    "avif-grid": avif_grid,
    "avif-boxes": lambda: _saved(Image.new("RGB", (_SMALL, _SMALL)), "AVIF") + _box(b"free") * (_MOST // 8 - 200),
    "avif-items": _avif_items,
    "avif-directory": avif_directory,
}
