"""Images as a browser shows them: one table of odd files, and what Chromium 156 shows of each.

A recorded line is the size, and the colours at six places: 3 pixels in from each corner, clockwise from the top left,
then near the centre, then where small frames of animations lie. Where Chromium is installed, a second test asks it
anew, for every pixel.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from PIL import Image, ImageChops, ImageStat

from m3agiqa.errors import ImageUnreadable
from m3agiqa.images import open_image
from tests.m3agiqa import chromium
from tests.m3agiqa.odd_images import (
    ADOBE,
    ALPHA,
    ANIM,
    ANIMATED,
    EXIF,
    ICC,
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
    PALETTED,
    PATCHES,
    SIGNATURE,
    SMALL,
    SRGB,
    TURNED,
    XMP,
    actl,
    adobe,
    anmf,
    app1,
    avif,
    chrm,
    chunk,
    cicp,
    clear,
    cmyk,
    encode,
    exif,
    fctl,
    fdat,
    gama,
    gif,
    gif_control,
    gif_frame,
    header,
    hidden,
    icc_segments,
    iccp,
    idat,
    interlaced,
    jpeg,
    nclx,
    palette_png,
    pixels,
    png,
    rows,
    samples,
    segment,
    shorts,
    tiff,
    trns,
    vp8x,
    webp,
    with_segments,
    xmp,
)


@dataclass(frozen=True)
class Case:
    """A file and what Chromium shows of it. If `open_image` differs on purpose, also what it gives and why."""

    build: Callable[[], bytes]
    shown: str
    ours: str = ""
    why: str = ""

    @property
    def expected(self) -> str:
        return self.ours or self.shown


# What Chromium shows more than once.
PLAIN = "64x32 c82828 3cb44b 2850c8 808080 dca03c 6fdfc4"
GREY = "64x32 585858 848484 525252 808080 a7a7a7 bababa"
CLEAR = "64x32 f9e7e7 eaf7eb 3f63ce 8d8d8d eac588 e2f8f3"
SWAPPED = "64x32 28c828 4b3cb4 c82850 808080 3cdca0 c46fdf"
LINEAR = "64x32 e56e6e 85db94 6e98e5 bcbcbc efd085 b0f0e3"
WIDE = "64x32 da001a 00b739 1651d0 808080 e79d16 2fe2c3"
ADOBE_RGB = "64x32 e92323 00b540 004fcd 818181 f0a12e 00e0c4"
BY_TABLE = "64x32 0f640d 8a4e68 535fa1 777777 829045 cb98ce"
GREY_LINEAR = "64x32 9f9f9f bebebe 9a9a9a bcbcbc d4d4d4 dedede"
SMALL_FRAME = "64x32 ffffff ffffff ffffff ffffff ffffff 005ac8"
#: By EXIF orientation.
TURNS = {
    2: "64x32 3cb44b c82828 808080 2850c8 b44842 30738c",
    3: "64x32 2850c8 808080 c82828 3cb44b d8773c 8f8cc8",
    4: "64x32 808080 2850c8 3cb44b c82828 d7e026 aa14ac",
    5: "32x64 c82828 808080 2850c8 3cb44b dca03c 2ea653",
    6: "32x64 808080 c82828 3cb44b 2850c8 d7e026 da4b3e",
    7: "32x64 2850c8 3cb44b c82828 808080 d8773c 572468",
    8: "32x64 3cb44b 2850c8 808080 c82828 b44842 141549",
}
# An image with the right size and no pixels, and a broken image; here both are failures.
NOTHING, BROKEN = "nothing", "broken"
UNREADABLE = "unreadable"

# Why not the same.
DAMAGED = "damaged: Chromium shows the part that it can read"
HDR = "HDR stays as it is: Chromium maps it to the screen"
FAULT = "a fault of Chromium 156: it stretches samples of which the file says that they are of full range"

STORED = zlib.compress(rows(PATCHES), 0)
TURNED_STORED = zlib.compress(rows(TURNED), 0)

CASES = {
    # PNG: colour
    "png": Case(lambda: png(), PLAIN),
    "png gAMA 0.02": Case(lambda: png(gama(2000)), "64x32 000000 000000 000000 000000 020000 000400"),
    "png gAMA 1.0": Case(lambda: png(gama(100000)), LINEAR),
    "png gAMA 1/2.2": Case(lambda: png(gama(45455)), PLAIN),
    "png gAMA 0.436, within five per cent of it": Case(lambda: png(gama(43600)), PLAIN),
    "png gAMA 0.43": Case(lambda: png(gama(43000)), "64x32 c71f1f 34b244 1f49c7 7c7c7c db9d34 6adec2"),
    "png gAMA 0": Case(lambda: png(gama(0)), PLAIN),
    "png gAMA 42949.67295": Case(lambda: png(gama(2**32 - 1)), "64x32 ffffff ffffff ffffff ffffff ffffff ffffff"),
    "png gAMA and cHRM of sRGB": Case(
        lambda: png(gama(45455) + chrm(SRGB)),
        "64x32 c92323 39b54a 234fc9 818181 dda139 6fe0c5",
        PLAIN,
        "what PNG writers mean by it is sRGB; Chromium darkens the shadows by up to 9",
    ),
    "png gAMA 1 and cHRM of sRGB": Case(lambda: png(gama(100_000) + chrm(SRGB)), LINEAR),
    "png gAMA and cHRM of Adobe RGB": Case(lambda: png(gama(45455) + chrm(ADOBE)), ADOBE_RGB),
    "png gAMA and cHRM of P3": Case(
        lambda: png(gama(45455) + chrm(P3)), "64x32 dc0012 00b936 0b50d1 818181 e89e0a 2fe3c4"
    ),
    "png gAMA and cHRM that span nothing": Case(lambda: png(gama(100_000) + chrm((0.3,) * 8)), PLAIN),
    "png gAMA and cHRM of zeros": Case(lambda: png(gama(100_000) + chrm((0.0,) * 8)), PLAIN),
    "png cHRM alone": Case(lambda: png(chrm(P3)), PLAIN),
    "png gAMA behind the pixels": Case(lambda: png(after=gama(100_000)), PLAIN),
    "png gAMA between palette and pixels": Case(lambda: palette_png(between=gama(100_000)), LINEAR),
    "png two gAMA": Case(lambda: png(gama(100_000) + gama(45455)), LINEAR),
    "png sRGB and gAMA": Case(lambda: png(chunk(b"sRGB", b"\0") + gama(100_000)), PLAIN),
    "png sRGB of no known intent and gAMA": Case(lambda: png(chunk(b"sRGB", b"\x09") + gama(100_000)), LINEAR),
    "png iCCP SRGB": Case(lambda: png(iccp(ICC_SRGB)), PLAIN),
    "png iCCP SWAPPED": Case(lambda: png(iccp(ICC_SWAPPED)), SWAPPED),
    "png iCCP P3": Case(lambda: png(iccp(ICC_P3)), WIDE),
    "png iCCP ADOBE": Case(lambda: png(iccp(ICC_ADOBE)), ADOBE_RGB),
    "png iCCP LINEAR": Case(lambda: png(iccp(ICC_LINEAR)), LINEAR),
    "png iCCP GREY": Case(lambda: png(iccp(ICC_GREY)), PLAIN),
    "png iCCP CMYK": Case(lambda: png(iccp(ICC_CMYK)), PLAIN),
    "png iCCP GARBAGE": Case(lambda: png(iccp(ICC_GARBAGE)), PLAIN),
    "png iCCP TABLE": Case(lambda: png(iccp(ICC_TABLE)), BY_TABLE),
    "png iCCP TABLE_1": Case(lambda: png(iccp(ICC_TABLE_1)), BY_TABLE),
    "png iCCP TABLES": Case(lambda: png(iccp(ICC_TABLES)), BY_TABLE),
    "png iCCP SWAPPED cut off": Case(lambda: png(iccp(ICC_SWAPPED[:-40])), PLAIN),
    "png iCCP SWAPPED with a tail": Case(lambda: png(iccp(ICC_SWAPPED + bytes(1000))), SWAPPED),
    "png iCCP of no name": Case(lambda: png(iccp(ICC_SWAPPED, b"")), PLAIN),
    "png iCCP not compressed": Case(lambda: png(chunk(b"iCCP", b"name\0\0garbage")), PLAIN),
    "png iCCP behind the pixels": Case(lambda: png(after=iccp(ICC_SWAPPED)), PLAIN),
    "png two iCCP": Case(lambda: png(iccp(ICC_SWAPPED) + iccp(ICC_LINEAR)), SWAPPED),
    "png iCCP GARBAGE, then SWAPPED": Case(lambda: png(iccp(ICC_GARBAGE) + iccp(ICC_SWAPPED)), PLAIN),
    "png iCCP of 5 MiB": Case(
        lambda: png(iccp(ICC_SWAPPED + bytes(5 << 20))), SWAPPED, PLAIN, "more than a profile may have"
    ),
    "png iCCP GARBAGE and gAMA": Case(lambda: png(iccp(ICC_GARBAGE) + gama(100_000)), LINEAR),
    "png iCCP GREY and gAMA": Case(lambda: png(iccp(ICC_GREY) + gama(100_000)), PLAIN),
    "png iCCP SWAPPED and gAMA": Case(lambda: png(iccp(ICC_SWAPPED) + gama(100_000)), SWAPPED),
    "png iCCP and sRGB": Case(lambda: png(iccp(ICC_SWAPPED) + chunk(b"sRGB", b"\0")), SWAPPED),
    "png sRGB and iCCP": Case(lambda: png(chunk(b"sRGB", b"\0") + iccp(ICC_SWAPPED)), SWAPPED),
    "png grey iCCP GREY": Case(lambda: png(iccp(ICC_GREY), image=PATCHES.convert("L")), GREY_LINEAR),
    "png grey iCCP SWAPPED": Case(lambda: png(iccp(ICC_SWAPPED), image=PATCHES.convert("L")), GREY),
    "png grey iCCP LINEAR": Case(lambda: png(iccp(ICC_LINEAR), image=PATCHES.convert("L")), GREY_LINEAR),
    "png grey iCCP TINTING": Case(
        lambda: png(iccp(ICC_TINTING), image=PATCHES.convert("L")), "64x32 515431 7a7e4c 4c4e2d 767b4a 9ba062 acb26e"
    ),
    "png grey iCCP CMYK": Case(lambda: png(iccp(ICC_CMYK), image=PATCHES.convert("L")), GREY),
    "png grey tRNS iCCP GREY": Case(
        lambda: png(iccp(ICC_GREY) + trns(128), image=PATCHES.convert("L")),
        "64x32 9f9f9f bebebe 9a9a9a ffffff d3d4d3 dedede",
    ),
    "png grey tRNS gAMA": Case(
        lambda: png(gama(100_000) + trns(128), image=PATCHES.convert("L")),
        "64x32 9f9f9f bebebe 9a9a9a ffffff d4d4d4 dedede",
    ),
    "png grey 1 bit iCCP TINTING": Case(
        lambda: samples(1, 0, b"\x0f\xf0\x0f", iccp(ICC_TINTING)), "24x8 000000 edf598 edf598 000000 000000 000000"
    ),
    "png grey 16 bits tRNS iCCP GREY": Case(
        lambda: samples(16, 0, shorts(*[0x4000] * 16, *[0x4001] * 16), iccp(ICC_GREY) + trns(0x4000)),
        "32x8 ffffff 898989 898989 ffffff 898989 ffffff",
    ),
    "png RGB 16 bits tRNS iCCP SWAPPED": Case(
        lambda: samples(16, 2, shorts(*[0x4000, 0, 0xFFFF] * 16), iccp(ICC_SWAPPED) + trns(0x4000, 0, 0xFFFE)),
        "16x8 ff4000 ff4000 ff4000 ff4000 ff4000 ff4000",
    ),
    "png grey gAMA": Case(lambda: png(gama(100_000), image=PATCHES.convert("L")), GREY_LINEAR),
    "png grey cICP": Case(lambda: png(cicp(12, 8), image=PATCHES.convert("L")), GREY_LINEAR),
    "png grey and alpha gAMA": Case(
        lambda: png(gama(100_000), image=clear(PATCHES.convert("L"))), "64x32 f4f4f4 f8f8f8 a4a4a4 c3c3c3 e4e4e4 f8f8f8"
    ),
    "png grey and alpha iCCP TINTING": Case(
        lambda: png(iccp(ICC_TINTING), image=clear(PATCHES.convert("L"))),
        "64x32 ecece8 f0f1eb 5f6144 85895d c2c59f eeefe1",
    ),
    "png alpha gAMA": Case(
        lambda: png(gama(100_000), image=clear(PATCHES)), "64x32 fcefef f2fbf3 7ea3e8 c3c3c3 f5e2b4 effcf9"
    ),
    "png alpha iCCP P3": Case(
        lambda: png(iccp(ICC_P3), image=clear(PATCHES)), "64x32 fbe3e6 e3f7e9 2f64d5 8d8d8d f0c370 d5f9f3"
    ),
    "png alpha cICP": Case(
        lambda: png(cicp(12, 13), image=clear(PATCHES)), "64x32 fbe3e6 e3f7e9 2f64d5 8d8d8d f0c370 d5f9f3"
    ),
    "png cICP 12 13": Case(lambda: png(cicp(12, 13)), WIDE),
    "png cICP 9 1": Case(lambda: png(cicp(9, 1)), "64x32 f60006 00b921 0048ce 797979 fc9100 00e7bf"),
    "png cICP 12 8": Case(lambda: png(cicp(12, 8)), "64x32 f6656a 65dd8c 6299eb bcbcbc f5ce79 9df3e3"),
    "png cICP 1 4": Case(lambda: png(cicp(1, 4)), "64x32 c92323 39b54a 234fc9 818181 dda139 6fe0c5"),
    "png cICP 1 5": Case(lambda: png(cicp(1, 5)), "64x32 bd1111 24a533 1138bd 6a6a6a d48e24 58d8b8"),
    "png cICP 1 6": Case(lambda: png(cicp(1, 6)), "64x32 c51c1c 31b041 1c46c5 797979 da9b31 67ddc1"),
    "png cICP 4 7": Case(lambda: png(cicp(4, 7)), "64x32 f32f2e 00b955 006ed4 8d8d8d f8a43a 00e3cb"),
    "png cICP 11 17": Case(lambda: png(cicp(11, 17)), "64x32 d60000 00b520 0141d0 767676 e89700 2be7c2"),
    "png cICP 2 13, unknown": Case(lambda: png(cicp(2, 13)), PLAIN),
    "png cICP 12 2, unknown": Case(lambda: png(cicp(12, 2)), PLAIN),
    "png cICP 12 9, unknown": Case(lambda: png(cicp(12, 9)), PLAIN),
    "png cICP 9 16, PQ": Case(lambda: png(cicp(9, 16)), "64x32 ff0000 00ff00 0005ff 848484 ff0e00 00ff9a", PLAIN, HDR),
    "png cICP 9 18, HLG": Case(lambda: png(cicp(9, 18)), "64x32 e6000d 00aa24 003bb5 636363 ff6e00 00ecab", PLAIN, HDR),
    "png cICP of limited range": Case(lambda: png(cicp(12, 8, full_range=0)), PLAIN),
    "png cICP with a matrix": Case(
        lambda: png(cicp(12, 8, matrix=1)), BROKEN, PLAIN, "a broken note on colour costs no image"
    ),
    "png cICP and iCCP": Case(lambda: png(cicp(1, 13) + iccp(ICC_SWAPPED)), PLAIN),
    "png iCCP, sRGB, gAMA and cICP": Case(
        lambda: png(iccp(ICC_SWAPPED) + chunk(b"sRGB", b"\0") + gama(20_000) + cicp(12, 8)),
        "64x32 f6656a 65dd8c 6299eb bcbcbc f5ce79 9df3e3",
    ),
    "png cICP unknown and iCCP": Case(lambda: png(cicp(2, 2) + iccp(ICC_SWAPPED)), SWAPPED),
    # PNG: palettes, few and many bits, transparent colours
    "png palette": Case(lambda: palette_png(), PLAIN),
    "png palette gAMA": Case(lambda: palette_png(gama(100_000)), LINEAR),
    "png palette iCCP": Case(lambda: palette_png(iccp(ICC_SWAPPED)), SWAPPED),
    "png palette iCCP GREY": Case(lambda: palette_png(iccp(ICC_GREY)), PLAIN),
    "png palette tRNS gAMA": Case(
        lambda: palette_png(gama(100_000), chunk(b"tRNS", bytes(range(0, 256, 8)))),
        "64x32 efa4a4 e8f8eb 80a4e8 e8e8e8 faf2dd f8fefc",
    ),
    "png palette tRNS too early": Case(lambda: palette_png(chunk(b"tRNS", bytes(range(0, 256, 8)))), PLAIN),
    "png palette tRNS too long": Case(
        lambda: palette_png(between=chunk(b"tRNS", bytes(range(0, 256, 2)))),
        "64x32 f6dddd f6fbf7 d0d9f3 f4f4f4 fdf8f1 fcfefe",
    ),
    "png palette missing": Case(lambda: png(image=PALETTED), NOTHING),
    "png grey 16 bits tRNS 0x1234": Case(
        lambda: samples(16, 0, b"".join(shorts(value) * 16 for value in (0x1234, 0x1235, 0x1134)), trns(0x1234)),
        "48x8 ffffff 111111 111111 ffffff 121212 ffffff",
    ),
    "png grey 16 bits tRNS 0x80FF": Case(
        lambda: samples(16, 0, b"".join(shorts(value) * 16 for value in (0x80FF, 0x8000, 0x8080)), trns(0x80FF)),
        "48x8 ffffff 808080 808080 ffffff 808080 ffffff",
    ),
    "png RGB 16 bits tRNS": Case(
        lambda: samples(
            16,
            2,
            b"".join(shorts(0x1234, 0x5678, blue) * 16 for blue in (0x9ABC, 0x9ABD, 0x9BBC)),
            trns(0x1234, 0x5678, 0x9ABC),
        ),
        "48x8 ffffff 12569b 12569b ffffff 12569a ffffff",
    ),
    "png grey 16 bits": Case(
        lambda: samples(16, 0, shorts(*range(77, 65536, 1021))), "65x8 0c0c0c f3f3f3 f3f3f3 0c0c0c 8b8b8b 303030"
    ),
    "png grey 16 bits gAMA": Case(
        lambda: samples(16, 0, shorts(*range(77, 65536, 1021)), gama(100_000)),
        "65x8 3d3d3d fafafa fafafa 3d3d3d c3c3c3 787878",
    ),
    "png RGB 16 bits iCCP P3": Case(
        lambda: samples(16, 2, shorts(*range(77, 65536, 1021))[:126], iccp(ICC_P3)),
        "21x8 23282c cacfd3 cacfd3 23282c 9a9fa3 8e9397",
    ),
    "png RGB tRNS": Case(lambda: png(trns(200, 40, 40)), "64x32 ffffff 3cb44b 2850c8 808080 dca03c 6fdfc4"),
    "png RGB tRNS with bits too high": Case(
        lambda: png(trns(0x100 + 200, 40, 40)), "64x32 ffffff 3cb44b 2850c8 808080 dca03c 6fdfc4"
    ),
    "png grey tRNS": Case(
        lambda: png(trns(128), image=PATCHES.convert("L")), "64x32 585858 848484 525252 ffffff a7a7a7 bababa"
    ),
    "png grey tRNS with bits too high": Case(
        lambda: png(trns(0x180), image=PATCHES.convert("L")), "64x32 585858 848484 525252 ffffff a7a7a7 bababa"
    ),
    "png grey tRNS too short": Case(lambda: png(chunk(b"tRNS", b"\x80"), image=PATCHES.convert("L")), GREY),
    "png grey 1 bit tRNS 0": Case(
        lambda: samples(1, 0, b"\x0f\xf0", trns(0)), "16x8 ffffff ffffff ffffff ffffff ffffff ffffff"
    ),
    "png grey 1 bit tRNS 1": Case(
        lambda: samples(1, 0, b"\x0f\xf0", trns(1)), "16x8 000000 000000 000000 000000 ffffff 000000"
    ),
    "png grey 2 bits tRNS 1": Case(
        lambda: samples(2, 0, b"\x55\xaa\x00\xff\x55", trns(1)), "20x8 ffffff ffffff ffffff ffffff ffffff ffffff"
    ),
    "png grey 2 bits tRNS 2": Case(
        lambda: samples(2, 0, b"\x55\xaa\x00\xff\x55", trns(2)), "20x8 555555 555555 555555 555555 ffffff ffffff"
    ),
    "png grey 4 bits tRNS 5": Case(
        lambda: samples(4, 0, b"\x55\x55\x99\x99", trns(5)), "8x8 ffffff 999999 999999 ffffff 999999 999999"
    ),
    "png grey 4 bits tRNS 0x55": Case(
        lambda: samples(4, 0, b"\x55\x55\x99\x99", trns(0x55)), "8x8 555555 999999 999999 555555 999999 999999"
    ),
    "png grey and alpha tRNS": Case(
        lambda: png(trns(128), image=clear(PATCHES.convert("L"))), "64x32 ededed f1f1f1 646464 8d8d8d c9c9c9 f1f1f1"
    ),
    "png alpha tRNS": Case(lambda: png(trns(200, 40, 40), image=clear(PATCHES)), CLEAR),
    "png bKGD": Case(lambda: png(chunk(b"bKGD", shorts(255, 0, 0)), image=clear(PATCHES)), CLEAR),
    # PNG: orientation
    "png eXIf 1": Case(lambda: png(exif(1)), PLAIN),
    "png eXIf 2": Case(lambda: png(exif(2)), TURNS[2]),
    "png eXIf 3": Case(lambda: png(exif(3)), TURNS[3]),
    "png eXIf 4": Case(lambda: png(exif(4)), TURNS[4]),
    "png eXIf 5": Case(lambda: png(exif(5)), TURNS[5]),
    "png eXIf 6": Case(lambda: png(exif(6)), TURNS[6]),
    "png eXIf 7": Case(lambda: png(exif(7)), TURNS[7]),
    "png eXIf 8": Case(lambda: png(exif(8)), TURNS[8]),
    "png eXIf of type LONG": Case(lambda: png(exif(6, kind=4)), PLAIN),
    "png eXIf of count 2": Case(lambda: png(exif(6, count=2)), PLAIN),
    "png eXIf of magic 43": Case(lambda: png(exif(6, magic=43)), PLAIN),
    "png eXIf as in a JPEG": Case(lambda: png(exif(6, prefix=b"Exif\0\0")), PLAIN),
    "png eXIf behind the pixels": Case(lambda: png(after=exif(6)), PLAIN),
    "png two eXIf": Case(lambda: png(exif(6) + exif(3)), TURNS[6]),
    "png eXIf garbage, then 6": Case(lambda: png(chunk(b"eXIf", b"garbage") + exif(6)), PLAIN),
    "png eXIf with wrong CRC": Case(lambda: png(exif(6, crc=1)), PLAIN),
    "png eXIf with wrong CRC, then 6": Case(lambda: png(exif(3, crc=1) + exif(6)), TURNS[6]),
    "png XMP": Case(lambda: png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))), PLAIN),
    "png raw profile exif": Case(
        lambda: png(
            chunk(
                b"zTXt",
                b"Raw profile type exif\0\0"
                + zlib.compress(b"\nexif\n      36\n" + (b"Exif\0\0" + tiff(6)).hex().encode()),
            )
        ),
        PLAIN,
    ),
    # PNG: chunks and checksums
    "png interlaced": Case(lambda: interlaced(), PLAIN),
    "png tEXt with wrong CRC": Case(lambda: png(chunk(b"tEXt", b"a\0b", crc=1)), PLAIN),
    "png abCd with wrong CRC": Case(lambda: png(chunk(b"abCd", b"a\0b", crc=1)), PLAIN),
    "png gAMA with wrong CRC": Case(lambda: png(gama(100_000, crc=1)), PLAIN),
    "png iCCP with wrong CRC": Case(lambda: png(iccp(ICC_SWAPPED, crc=1)), PLAIN),
    "png iCCP with wrong CRC, then SWAPPED": Case(lambda: png(iccp(ICC_LINEAR, crc=1) + iccp(ICC_SWAPPED)), SWAPPED),
    "png tRNS with wrong CRC": Case(lambda: palette_png(between=chunk(b"tRNS", bytes(32), crc=1)), PLAIN),
    "png tEXt with wrong CRC behind the pixels": Case(lambda: png(after=chunk(b"tEXt", b"a\0b", crc=1)), PLAIN),
    "png pHYs too short": Case(lambda: png(chunk(b"pHYs", b"")), PLAIN),
    "png gAMA too short": Case(lambda: png(chunk(b"gAMA", b"")), PLAIN),
    "png tIME too short": Case(lambda: png(chunk(b"tIME", b"")), PLAIN),
    "png cICP too short": Case(lambda: png(chunk(b"cICP", b"")), PLAIN),
    "png eXIf too short": Case(lambda: png(chunk(b"eXIf", b"")), PLAIN),
    "png zTXt of 2 MiB": Case(lambda: png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20)))), PLAIN),
    "png zTXt of 2 MiB behind the pixels": Case(
        lambda: png(after=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20)))), PLAIN
    ),
    "png iTXt of 2 MiB": Case(lambda: png(chunk(b"iTXt", b"a\0\0\0\0\0" + b"x" * (2 << 20))), PLAIN),
    "png iTXt of 80 MiB compressed": Case(
        lambda: png(chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(80 << 20)))), PLAIN
    ),
    "png IHDR with wrong CRC": Case(lambda: png().replace(header()[-4:], b"1234", 1), BROKEN),
    "png PLTE with wrong CRC": Case(lambda: palette_png(crc=1), BROKEN),
    "png IDAT with wrong CRC": Case(lambda: png(body=idat(zlib.compress(rows(PATCHES)), crc=1)), PLAIN),
    "png second IDAT of three with wrong CRC": Case(
        lambda: png(body=idat(STORED[:2000]) + idat(STORED[2000:4000], crc=1) + idat(STORED[4000:])), NOTHING
    ),
    "png IDAT in bits and pieces": Case(
        lambda: png(body=b"".join(map(idat, (b"", STORED[:1], b"", STORED[1:100], STORED[100:], b"")))), PLAIN
    ),
    "png IDAT in two places": Case(
        lambda: png(body=idat(STORED[:3000]) + chunk(b"tEXt", b"a\0b") + idat(STORED[3000:])), NOTHING
    ),
    "png more pixels than rows": Case(lambda: png(body=idat(zlib.compress(rows(PATCHES) + bytes(5000)))), PLAIN),
    "png bytes behind the compressed ones": Case(lambda: png(body=idat(STORED + b"x" * 300)), PLAIN),
    "png without the last checksum": Case(lambda: png(body=idat(STORED[:-4])), PLAIN),
    "png with a wrong last checksum": Case(
        lambda: png(body=idat(STORED[:-4] + bytes(4))),
        PLAIN,
        UNREADABLE,
        "what deflate's own checksum says is damaged is not scored",
    ),
    "png too few rows": Case(
        lambda: png(body=idat(zlib.compress(rows(PATCHES)[: 16 * 193]))),
        "64x32 c82828 3cb44b ffffff ffffff ffffff 6fdfc4",
        UNREADABLE,
        DAMAGED,
    ),
    "png of an unknown filter": Case(
        lambda: png(body=idat(zlib.compress(rows(PATCHES)[: 16 * 193] + b"\x09" + rows(PATCHES)[16 * 193 + 1 :]))),
        "64x32 c82828 3cb44b ffffff ffffff ffffff 6fdfc4",
        UNREADABLE,
        DAMAGED,
    ),
    "png cut off": Case(
        lambda: png(body=idat(STORED))[:3000], "64x32 c82828 3cb44b ffffff ffffff ffffff 6fdfc4", UNREADABLE, DAMAGED
    ),
    "png interlaced cut off": Case(lambda: interlaced()[:-200], PLAIN, UNREADABLE, DAMAGED),
    "png IDAT cut off inside": Case(lambda: png(body=idat(STORED[:3000])), NOTHING),
    "png IEND missing": Case(lambda: png(end=b""), PLAIN),
    "png IEND with wrong CRC": Case(lambda: png(end=chunk(b"IEND", b"", crc=1)), PLAIN),
    "png IEND with content": Case(lambda: png(end=chunk(b"IEND", b"abc")), PLAIN),
    "png bytes behind IEND": Case(lambda: png() + b"hello" * 100, PLAIN),
    "png unknown critical chunk": Case(lambda: png(chunk(b"ABCD", b"b")), BROKEN),
    "png two IHDR": Case(lambda: png(header(16, 16)[8:]), BROKEN),
    "png chunk before IHDR": Case(lambda: SIGNATURE + chunk(b"tEXt", b"a\0b") + png()[8:], BROKEN),
    # APNG: the first frame that is shown
    "apng": Case(lambda: png(actl(2) + fctl(0), after=fctl(1) + fdat(2, TURNED)), PLAIN),
    "apng hidden image": Case(lambda: hidden(fctl(0), fdat(1, TURNED), fctl(2), fdat(3, PATCHES)), TURNS[3]),
    "apng hidden image, one frame": Case(lambda: hidden(fctl(0), fdat(1, TURNED), count=1), TURNS[3]),
    "apng frame in several fdAT": Case(
        lambda: hidden(
            fctl(0),
            *(
                chunk(b"fdAT", struct.pack(">I", n + 1) + part)
                for n, part in enumerate((TURNED_STORED[:2000], TURNED_STORED[2000:]))
            ),
            count=1,
        ),
        TURNS[3],
    ),
    "apng small first frame": Case(
        lambda: hidden(fctl(0, (16, 16), (8, 4)), fdat(1, SMALL), fctl(2), fdat(3, PATCHES)), SMALL_FRAME
    ),
    "apng small first frame, alpha": Case(
        lambda: hidden(
            fctl(0, (16, 16), (8, 4)), fdat(1, clear(SMALL)), fctl(2), fdat(3, clear(PATCHES)), image=clear(PATCHES)
        ),
        "64x32 ffffff ffffff ffffff ffffff ffffff d7e5f6",
    ),
    "apng small first frame in the corner": Case(
        lambda: hidden(fctl(0, (16, 16)), fdat(1, SMALL), fctl(2), fdat(3, PATCHES)),
        "64x32 005ac8 ffffff ffffff ffffff ffffff 005ac8",
    ),
    "apng half clear first frame, source": Case(
        lambda: hidden(
            fctl(0, how=0), fdat(1, clear(TURNED, 128)), fctl(2), fdat(3, clear(PATCHES)), image=clear(PATCHES, 255)
        ),
        "64x32 93a7e3 bfbfbf e39393 9dd9a5 ebbb9d c7c5e3",
    ),
    "apng half clear first frame, over": Case(
        lambda: hidden(
            fctl(0, how=1), fdat(1, clear(TURNED, 128)), fctl(2), fdat(3, clear(PATCHES)), image=clear(PATCHES, 255)
        ),
        "64x32 93a7e3 bfbfbf e39393 9dd9a5 ebbb9d c7c5e3",
    ),
    "apng half clear first frame, clearing": Case(
        lambda: hidden(
            fctl(0, how=256), fdat(1, clear(TURNED, 128)), fctl(2), fdat(3, clear(PATCHES)), image=clear(PATCHES, 255)
        ),
        "64x32 93a7e3 bfbfbf e39393 9dd9a5 ebbb9d c7c5e3",
    ),
    "apng half clear first frame, over, restoring": Case(
        lambda: hidden(
            fctl(0, how=513), fdat(1, clear(TURNED, 128)), fctl(2), fdat(3, clear(PATCHES)), image=clear(PATCHES, 255)
        ),
        "64x32 93a7e3 bfbfbf e39393 9dd9a5 ebbb9d c7c5e3",
    ),
    "apng of no frames": Case(lambda: hidden(fctl(0), fdat(1, TURNED), count=0), PLAIN),
    "apng acTL behind the pixels": Case(lambda: png(after=actl(1) + fctl(0) + fdat(1, TURNED)), PLAIN),
    "apng without acTL": Case(lambda: png(after=fctl(0) + fdat(1, TURNED)), PLAIN),
    "apng with more frames than it says": Case(
        lambda: hidden(fctl(0), fdat(1, TURNED), fctl(2), fdat(3, PATCHES), count=1), TURNS[3]
    ),
    "apng with acTL but no frame": Case(lambda: hidden(), NOTHING),
    "apng frame without pixels": Case(lambda: hidden(fctl(0)), NOTHING),
    "apng frame of garbage": Case(lambda: hidden(fctl(0), chunk(b"fdAT", b"\0\0\0\1garbage")), NOTHING),
    "apng frame beyond the image": Case(lambda: hidden(fctl(0, at=(8, 8)), fdat(1, TURNED)), NOTHING),
    "apng frame with wrong CRC": Case(lambda: hidden(fctl(0)[:-4] + b"1234", fdat(1, TURNED)), NOTHING),
    "apng out of order": Case(lambda: hidden(fctl(5), fdat(3, TURNED)), NOTHING),
    "apng second frame of garbage": Case(
        lambda: png(actl(2) + fctl(0), after=fctl(1) + chunk(b"fdAT", b"\0\0\0\2garbage")), PLAIN
    ),
    "apng second frame missing": Case(lambda: png(actl(2) + fctl(0)), PLAIN),
    "apng IDAT frame smaller than the image": Case(
        lambda: png(actl(2) + fctl(0, (16, 16)), after=fctl(1) + fdat(2, TURNED)), BROKEN
    ),
    "apng palette": Case(
        lambda: palette_png(actl(1), after_pixels=fctl(0) + fdat(1, PALETTED.transpose(Image.Transpose.ROTATE_180))),
        TURNS[3],
    ),
    "apng gAMA": Case(
        lambda: hidden(fctl(0), fdat(1, TURNED), before=gama(100_000)),
        "64x32 6e98e5 bcbcbc e56e6e 85db94 edb685 c5c4e5",
    ),
    "apng iCCP": Case(
        lambda: hidden(fctl(0), fdat(1, TURNED), before=iccp(ICC_SWAPPED)),
        "64x32 c82850 808080 28c828 4b3cb4 3cd877 c88f8c",
    ),
    "apng eXIf": Case(lambda: hidden(fctl(0), fdat(1, TURNED), before=exif(6)), TURNS[8]),
    # JPEG: orientation
    "jpeg": Case(lambda: jpeg(), PLAIN),
    "jpeg EXIF 0": Case(lambda: with_segments(app1(0)), PLAIN),
    "jpeg EXIF 1": Case(lambda: with_segments(app1(1)), PLAIN),
    "jpeg EXIF 2": Case(lambda: with_segments(app1(2)), TURNS[2]),
    "jpeg EXIF 3": Case(lambda: with_segments(app1(3)), TURNS[3]),
    "jpeg EXIF 4": Case(lambda: with_segments(app1(4)), TURNS[4]),
    "jpeg EXIF 5": Case(lambda: with_segments(app1(5)), TURNS[5]),
    "jpeg EXIF 6": Case(lambda: with_segments(app1(6)), TURNS[6]),
    "jpeg EXIF 7": Case(lambda: with_segments(app1(7)), TURNS[7]),
    "jpeg EXIF 8": Case(lambda: with_segments(app1(8)), TURNS[8]),
    "jpeg EXIF 9": Case(lambda: with_segments(app1(9)), PLAIN),
    "jpeg EXIF before JFIF": Case(lambda: jpeg()[:2] + app1(6) + jpeg()[2:], TURNS[6]),
    "jpeg EXIF behind the frame header": Case(lambda: jpeg().replace(b"\xff\xda", app1(6) + b"\xff\xda", 1), TURNS[6]),
    "jpeg EXIF behind the pixels": Case(lambda: jpeg()[:-2] + app1(6) + jpeg()[-2:], PLAIN),
    "jpeg EXIF behind the end": Case(lambda: jpeg() + app1(6), PLAIN),
    "jpeg two EXIF": Case(lambda: with_segments(app1(6), app1(3)), TURNS[6]),
    "jpeg two EXIF, the first garbage": Case(lambda: with_segments(segment(0xE1, b"Exif\0\0garbage."), app1(6)), PLAIN),
    "jpeg two EXIF, the first of type LONG": Case(lambda: with_segments(app1(3, kind=4), app1(6)), PLAIN),
    "jpeg two EXIF, the first empty": Case(lambda: with_segments(segment(0xE1, b"Exif\0\0"), app1(6)), TURNS[6]),
    "jpeg EXIF of type LONG": Case(lambda: with_segments(app1(6, kind=4)), PLAIN),
    "jpeg EXIF of type SSHORT": Case(lambda: with_segments(app1(6, kind=8)), PLAIN),
    "jpeg EXIF of count 2": Case(lambda: with_segments(app1(6, count=2)), PLAIN),
    "jpeg EXIF of count 0": Case(lambda: with_segments(app1(6, count=0)), PLAIN),
    "jpeg EXIF of magic 43": Case(lambda: with_segments(app1(6, magic=43)), PLAIN),
    "jpeg EXIF padded with 255": Case(lambda: with_segments(app1(6, start=b"Exif\0\xff")), TURNS[6]),
    "jpeg exif in lower case": Case(lambda: with_segments(app1(6, start=b"exif\0\0")), PLAIN),
    "jpeg XMP": Case(lambda: with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6))), PLAIN),
    "jpeg XMP and EXIF": Case(
        lambda: with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6)), app1(3)), TURNS[3]
    ),
    # JPEG: colour
    "jpeg ICC SRGB": Case(lambda: with_segments(icc_segments(ICC_SRGB)), PLAIN),
    "jpeg ICC P3": Case(lambda: with_segments(icc_segments(ICC_P3)), "64x32 da001a 00b639 1651d1 808080 e79e18 2ce2c2"),
    "jpeg ICC ADOBE": Case(lambda: with_segments(icc_segments(ICC_ADOBE)), ADOBE_RGB),
    "jpeg ICC SWAPPED": Case(lambda: with_segments(icc_segments(ICC_SWAPPED)), SWAPPED),
    "jpeg ICC GREY": Case(lambda: with_segments(icc_segments(ICC_GREY)), PLAIN),
    "jpeg ICC CMYK": Case(lambda: with_segments(icc_segments(ICC_CMYK)), PLAIN),
    "jpeg ICC GARBAGE": Case(lambda: with_segments(icc_segments(ICC_GARBAGE)), PLAIN),
    "jpeg ICC TABLE": Case(lambda: with_segments(icc_segments(ICC_TABLE)), BY_TABLE),
    "jpeg ICC in parts": Case(lambda: with_segments(icc_segments(ICC_SWAPPED, (1, 2, 3), parts=3)), SWAPPED),
    "jpeg ICC in parts out of order": Case(
        lambda: with_segments(icc_segments(ICC_SWAPPED, (3, 1, 2), parts=3)), SWAPPED
    ),
    "jpeg ICC with a part missing": Case(lambda: with_segments(icc_segments(ICC_SWAPPED, (1, 3), parts=3)), PLAIN),
    "jpeg ICC with a part twice": Case(lambda: with_segments(icc_segments(ICC_SWAPPED, (1, 2, 2, 3), parts=3)), PLAIN),
    "jpeg ICC of more parts than it says": Case(
        lambda: with_segments(icc_segments(ICC_SWAPPED, (1, 2, 3), parts=3, total=2)), PLAIN
    ),
    "jpeg ICC of fewer parts than it says": Case(
        lambda: with_segments(icc_segments(ICC_SWAPPED, (1, 2, 3), parts=3, total=4)), PLAIN
    ),
    "jpeg two ICC": Case(lambda: with_segments(icc_segments(ICC_SWAPPED), icc_segments(ICC_LINEAR)), SWAPPED),
    "jpeg ICC behind the frame header": Case(
        lambda: jpeg().replace(b"\xff\xda", icc_segments(ICC_SWAPPED) + b"\xff\xda", 1), SWAPPED
    ),
    "jpeg grey ICC GREY": Case(
        lambda: with_segments(icc_segments(ICC_GREY), data=jpeg(PATCHES.convert("L"))), GREY_LINEAR
    ),
    "jpeg grey ICC LINEAR": Case(
        lambda: with_segments(icc_segments(ICC_LINEAR), data=jpeg(PATCHES.convert("L"))), GREY_LINEAR
    ),
    "jpeg grey ICC TINTING": Case(
        lambda: with_segments(icc_segments(ICC_TINTING), data=jpeg(PATCHES.convert("L"))),
        "64x32 515431 7a7e4c 4c4e2d 767b4a 9ba062 acb26e",
    ),
    "jpeg grey ICC CMYK": Case(lambda: with_segments(icc_segments(ICC_CMYK), data=jpeg(PATCHES.convert("L"))), GREY),
    "jpeg CMYK": Case(lambda: jpeg(cmyk()), "64x32 33cbcb b846aa 76601e 464646 184187 811c34"),
    "jpeg CMYK without an Adobe marker": Case(
        lambda: adobe(jpeg(cmyk()), None), "64x32 33cbcb b846aa 76601e 464646 184187 811c34"
    ),
    "jpeg YCCK": Case(lambda: adobe(jpeg(cmyk()), 2), "64x32 49f12b 004a91 4e0200 474647 57b1b1 ba1ae5"),
    "jpeg CMYK ICC CMYK": Case(
        lambda: with_segments(icc_segments(ICC_CMYK), data=jpeg(cmyk())),
        "64x32 00c1e3 ca8a98 ab957a 878787 5583a2 af726a",
    ),
    "jpeg CMYK without an Adobe marker ICC CMYK": Case(
        lambda: with_segments(icc_segments(ICC_CMYK), data=adobe(jpeg(cmyk()), None)),
        "64x32 00c1e3 ca8a98 ab957a 878787 5583a2 af726a",
    ),
    "jpeg YCCK ICC CMYK": Case(
        lambda: with_segments(icc_segments(ICC_CMYK), data=adobe(jpeg(cmyk()), 2)),
        "64x32 65d5b4 2a85ab 946659 878787 6dbbce c3709b",
    ),
    "jpeg CMYK ICC SWAPPED": Case(
        lambda: with_segments(icc_segments(ICC_SWAPPED), data=jpeg(cmyk())),
        "64x32 33cbcb b846aa 76601e 464646 184187 811c34",
    ),
    "jpeg CMYK EXIF": Case(
        lambda: with_segments(app1(6), data=jpeg(cmyk())), "32x64 464646 33cbcb b846aa 76601e 2018ae 197c85"
    ),
    "jpeg RGB": Case(lambda: jpeg(keep_rgb=True), PLAIN),
    "jpeg YCbCr that says RGB": Case(
        lambda: jpeg()[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\0") + jpeg()[20:],
        "64x32 5865d0 84604d 52c362 808080 a744a6 ba854a",
    ),
    "jpeg JFIF and an Adobe marker that says RGB": Case(
        lambda: with_segments(segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")), PLAIN
    ),
    # JPEG: structure
    "jpeg progressive": Case(lambda: jpeg(progressive=True), PLAIN),
    "jpeg of coarse colour": Case(lambda: jpeg(subsampling=2), "64x32 c8282a 3cb34d 2c4ec9 808080 dca040 70dec3"),
    "jpeg of several images": Case(
        lambda: encode(PATCHES, "MPO", save_all=True, append_images=[TURNED], quality=95),
        "64x32 c8282a 3cb34d 2c4ec9 808080 dca040 70dec3",
    ),
    "jpeg fill bytes": Case(lambda: jpeg()[:2] + b"\xff\xff\xff" + jpeg()[2:], PLAIN),
    "jpeg bytes behind the end": Case(lambda: jpeg() + b"hello" * 50, PLAIN),
    "jpeg a second one behind the end": Case(lambda: jpeg() + jpeg(TURNED), PLAIN),
    "jpeg end missing": Case(
        lambda: jpeg()[:-2], "64x32 c82828 3cb34b ffffff ffffff dca13d 6edfc3", UNREADABLE, DAMAGED
    ),
    "jpeg cut off": Case(lambda: jpeg()[:-100], "64x32 c82828 3cb34b ffffff ffffff ffffff 6edfc3", UNREADABLE, DAMAGED),
    "jpeg progressive cut off": Case(lambda: jpeg(progressive=True)[:-100], PLAIN, UNREADABLE, DAMAGED),
    "jpeg of no height": Case(
        lambda: (lambda data, at: data[: at + 5] + bytes(2) + data[at + 7 :])(jpeg(), jpeg().index(b"\xff\xc0")), BROKEN
    ),
    # WEBP
    "webp": Case(lambda: webp(pixels()), PLAIN),
    "webp lossy": Case(lambda: encode(PATCHES, "WEBP", quality=95), PLAIN),
    "webp alpha": Case(lambda: webp(vp8x(ALPHA), pixels(clear(PATCHES))), CLEAR),
    "webp lossy alpha": Case(lambda: encode(clear(PATCHES), "WEBP", quality=95), CLEAR),
    "webp alpha it does not tell of": Case(
        lambda: webp(vp8x(0), pixels(clear(PATCHES))),
        "64x32 ffffff ffffff 436be3 9b9b9b ffff9f ffffff",
        CLEAR,
        "Chromium adds the samples to the page's white as if alpha were already in them",
    ),
    "webp ICCP SRGB": Case(lambda: webp(vp8x(ICC), (b"ICCP", ICC_SRGB), pixels()), PLAIN),
    "webp ICCP SWAPPED": Case(lambda: webp(vp8x(ICC), (b"ICCP", ICC_SWAPPED), pixels()), SWAPPED),
    "webp ICCP P3": Case(lambda: webp(vp8x(ICC), (b"ICCP", ICC_P3), pixels()), WIDE),
    "webp ICCP GREY": Case(lambda: webp(vp8x(ICC), (b"ICCP", ICC_GREY), pixels()), PLAIN),
    "webp ICCP CMYK": Case(lambda: webp(vp8x(ICC), (b"ICCP", ICC_CMYK), pixels()), PLAIN),
    "webp ICCP GARBAGE": Case(lambda: webp(vp8x(ICC), (b"ICCP", ICC_GARBAGE), pixels()), PLAIN),
    "webp ICCP TABLE": Case(lambda: webp(vp8x(ICC), (b"ICCP", ICC_TABLE), pixels()), BY_TABLE),
    "webp alpha ICCP P3": Case(
        lambda: webp(vp8x(ICC | ALPHA), (b"ICCP", ICC_P3), pixels(clear(PATCHES))),
        "64x32 fbe3e6 e3f7e9 2f64d5 8d8d8d f0c370 d5f9f3",
    ),
    "webp ICCP it does not tell of": Case(lambda: webp(vp8x(0), (b"ICCP", ICC_SWAPPED), pixels()), PLAIN),
    "webp ICCP behind the pixels": Case(lambda: webp(vp8x(ICC), pixels(), (b"ICCP", ICC_SWAPPED)), SWAPPED),
    "webp two ICCP": Case(lambda: webp(vp8x(ICC), (b"ICCP", ICC_SWAPPED), (b"ICCP", ICC_LINEAR), pixels()), SWAPPED),
    "webp EXIF": Case(lambda: webp(vp8x(EXIF), pixels(), (b"EXIF", tiff(6))), PLAIN),
    "webp EXIF as in a JPEG": Case(lambda: webp(vp8x(EXIF), pixels(), (b"EXIF", b"Exif\0\0" + tiff(6))), PLAIN),
    "webp EXIF lossy": Case(lambda: encode(PATCHES, "WEBP", quality=95, exif=b"Exif\0\0" + tiff(6)), PLAIN),
    "webp XMP": Case(lambda: webp(vp8x(XMP), pixels(), (b"XMP ", xmp(6))), PLAIN),
    "webp larger than its pixels": Case(lambda: webp(vp8x(0, (80, 48)), pixels()), BROKEN),
    "webp smaller than its pixels": Case(lambda: webp(vp8x(0, (32, 16)), pixels()), BROKEN),
    "webp unknown chunk": Case(lambda: webp(vp8x(0), (b"ABCD", b"1234"), pixels()), PLAIN),
    "webp bytes behind": Case(lambda: webp(pixels()) + b"hello" * 40, PLAIN),
    "webp cut off": Case(lambda: webp(pixels())[:-100], BROKEN),
    "webp lossy cut off": Case(lambda: encode(PATCHES, "WEBP", quality=95)[:-100], BROKEN),
    "webp animation": Case(lambda: webp(vp8x(ANIMATED), ANIM, anmf(PATCHES), anmf(TURNED)), PLAIN),
    "webp animation of one frame": Case(lambda: webp(vp8x(ANIMATED), ANIM, anmf(PATCHES)), PLAIN),
    "webp animation, small first frame": Case(
        lambda: webp(vp8x(ANIMATED), ANIM, anmf(SMALL, (8, 4)), anmf(PATCHES)), SMALL_FRAME
    ),
    "webp animation with alpha, small first frame": Case(
        lambda: webp(vp8x(ANIMATED | ALPHA), ANIM, anmf(SMALL, (8, 4)), anmf(PATCHES)), SMALL_FRAME
    ),
    "webp animation with alpha, half clear first frame, flags 0": Case(
        lambda: webp(vp8x(ANIMATED | ALPHA), ANIM, anmf(clear(PATCHES, 128), flags=0), anmf(TURNED)),
        "64x32 e39393 9dd9a4 93a7e3 bfbfbf edcf9d b6eee1",
    ),
    "webp animation with alpha, half clear first frame, flags 3": Case(
        lambda: webp(vp8x(ANIMATED | ALPHA), ANIM, anmf(clear(PATCHES, 128), flags=3), anmf(TURNED)),
        "64x32 e39393 9dd9a4 93a7e3 bfbfbf edcf9d b6eee1",
    ),
    "webp animation ICCP": Case(
        lambda: webp(vp8x(ANIMATED | ICC), (b"ICCP", ICC_SWAPPED), ANIM, anmf(PATCHES), anmf(TURNED)), PLAIN
    ),
    "webp animation EXIF": Case(
        lambda: webp(vp8x(ANIMATED | EXIF), ANIM, anmf(PATCHES), anmf(TURNED), (b"EXIF", tiff(6))), PLAIN
    ),
    "webp animation, frame beyond the image": Case(
        lambda: webp(vp8x(ANIMATED), ANIM, anmf(PATCHES, (8, 8)), anmf(TURNED)), BROKEN
    ),
    "webp animation without a frame": Case(lambda: webp(vp8x(ANIMATED), pixels()), BROKEN),
    "webp animation cut off in the second frame": Case(
        lambda: webp(vp8x(ANIMATED), ANIM, anmf(PATCHES), anmf(TURNED))[:-40], BROKEN
    ),
    # GIF
    "gif": Case(lambda: gif(gif_frame()), PLAIN),
    "gif transparent": Case(
        lambda: gif(gif_control(transparent=3), gif_frame()), "64x32 c82828 3cb44b 2850c8 808080 dca03c ffffff"
    ),
    "gif transparent, background": Case(
        lambda: gif(gif_control(transparent=3), gif_frame(), background=5),
        "64x32 c82828 3cb44b 2850c8 808080 dca03c ffffff",
    ),
    "gif interlaced": Case(
        lambda: gif(gif_frame(PALETTED, interlace=True)), "64x32 da4b3e 572468 3cb44b c82828 e5628f 17cf4b"
    ),
    "gif small frame, background": Case(
        lambda: gif(gif_frame(Image.new("P", (16, 16), 3), (8, 4)), background=5),
        "64x32 ffffff ffffff ffffff ffffff ffffff 6fdfc4",
    ),
    "gif small frame, transparent background": Case(
        lambda: gif(gif_control(transparent=5), gif_frame(Image.new("P", (16, 16), 3), (8, 4)), background=5),
        "64x32 ffffff ffffff ffffff ffffff ffffff 6fdfc4",
    ),
    "gif small first frame, disposal 1": Case(
        lambda: gif(
            gif_control(1), gif_frame(Image.new("P", (16, 16), 3), (8, 4)), gif_control(), gif_frame(), background=5
        ),
        "64x32 ffffff ffffff ffffff ffffff ffffff 6fdfc4",
    ),
    "gif small first frame, disposal 2": Case(
        lambda: gif(
            gif_control(2), gif_frame(Image.new("P", (16, 16), 3), (8, 4)), gif_control(), gif_frame(), background=5
        ),
        "64x32 ffffff ffffff ffffff ffffff ffffff 6fdfc4",
    ),
    "gif frame larger than the screen": Case(lambda: gif(gif_frame(), size=(32, 16)), PLAIN),
    "gif frames larger than the screen": Case(
        lambda: gif(gif_control(), gif_frame(), gif_control(), gif_frame(), size=(32, 16)), PLAIN
    ),
    "gif frame beyond the screen": Case(
        lambda: gif(gif_frame(at=(8, 8)), background=5), "72x40 ffffff ffffff 2850c8 ffffff d8773c ffffff"
    ),
    "gif screen of no size": Case(lambda: gif(gif_frame(), size=(0, 0)), PLAIN),
    "gif of no frame": Case(lambda: gif(), NOTHING),
    "gif ICC": Case(
        lambda: gif(
            b"!\xff\x0bICCRGBG1012\xc8"
            + ICC_SWAPPED[:200]
            + b"\xc8"
            + ICC_SWAPPED[200:400]
            + bytes([len(ICC_SWAPPED) - 400])
            + ICC_SWAPPED[400:]
            + b"\0",
            gif_frame(),
        ),
        PLAIN,
    ),
    "gif XMP": Case(
        lambda: gif(b"!\xff\x0bXMP DataXMP" + xmp(6) + b"\1" + bytes(range(255, -1, -1)) + b"\0", gif_frame()), PLAIN
    ),
    "gif end missing": Case(lambda: gif(gif_frame())[:-1], PLAIN),
    "gif bytes behind": Case(lambda: gif(gif_frame()) + b"hello" * 30, PLAIN),
    "gif cut off": Case(
        lambda: gif(gif_frame())[:1800], "64x32 c82828 3cb44b ffffff ffffff ffffff 6fdfc4", UNREADABLE, DAMAGED
    ),
    "gif animation": Case(lambda: encode(PALETTED, "GIF", save_all=True, append_images=[TURNED]), PLAIN),
    # AVIF
    "avif": Case(lambda: avif(), PLAIN),
    "avif of coarse colour": Case(lambda: avif(subsampling="4:2:0"), PLAIN),
    "avif of limited range": Case(lambda: avif(range="limited"), "64x32 c82928 3ab44a 2850c5 808080 dba03c 6ee0c2"),
    "avif grey": Case(lambda: avif(PATCHES.convert("L"), subsampling="4:0:0"), GREY),
    "avif alpha": Case(lambda: avif(clear(PATCHES)), "64x32 fcf4f4 f5fbf6 2f57c9 848484 e9c283 e8faf5", CLEAR, FAULT),
    "avif irot and imir 1": Case(lambda: avif(exif=b"Exif\0\0" + tiff(1)), PLAIN),
    "avif irot and imir 2": Case(lambda: avif(exif=b"Exif\0\0" + tiff(2)), TURNS[2]),
    "avif irot and imir 3": Case(lambda: avif(exif=b"Exif\0\0" + tiff(3)), TURNS[3]),
    "avif irot and imir 4": Case(lambda: avif(exif=b"Exif\0\0" + tiff(4)), TURNS[4]),
    "avif irot and imir 5": Case(lambda: avif(exif=b"Exif\0\0" + tiff(5)), TURNS[5]),
    "avif irot and imir 6": Case(lambda: avif(exif=b"Exif\0\0" + tiff(6)), TURNS[6]),
    "avif irot and imir 7": Case(lambda: avif(exif=b"Exif\0\0" + tiff(7)), TURNS[7]),
    "avif irot and imir 8": Case(lambda: avif(exif=b"Exif\0\0" + tiff(8)), TURNS[8]),
    "avif EXIF but no irot": Case(lambda: avif(exif=b"Exif\0\0" + tiff(6)).replace(b"irot\3", b"irot\0"), PLAIN),
    "avif XMP": Case(lambda: avif(xmp=xmp(6)), PLAIN),
    "avif ICC SRGB": Case(lambda: avif(icc_profile=ICC_SRGB), PLAIN),
    "avif ICC SWAPPED": Case(lambda: avif(icc_profile=ICC_SWAPPED), SWAPPED),
    "avif ICC P3": Case(lambda: avif(icc_profile=ICC_P3), "64x32 da001a 00b837 1552ce 808080 e79e12 2ce2c2"),
    "avif ICC TABLE": Case(lambda: avif(icc_profile=ICC_TABLE), BY_TABLE),
    "avif ICC GREY": Case(lambda: avif(icc_profile=ICC_GREY), BROKEN, PLAIN, "a profile that fits not costs no image"),
    "avif ICC GARBAGE": Case(
        lambda: avif(icc_profile=ICC_GARBAGE), BROKEN, PLAIN, "a profile that fits not costs no image"
    ),
    "avif grey ICC GREY": Case(
        lambda: avif(PATCHES.convert("L"), subsampling="4:0:0", icc_profile=ICC_GREY), GREY_LINEAR
    ),
    "avif grey ICC LINEAR": Case(
        lambda: avif(PATCHES.convert("L"), subsampling="4:0:0", icc_profile=ICC_LINEAR), GREY_LINEAR
    ),
    "avif nclx 12 13": Case(lambda: nclx(12, 13), "64x32 da001a 00b837 1552ce 808080 e79e12 2ce2c2"),
    "avif nclx 1 8": Case(lambda: nclx(1, 8), LINEAR),
    "avif nclx 9 1": Case(lambda: nclx(9, 1), "64x32 f9001b 00be30 0053d0 808080 fc9800 00e9c1"),
    "avif nclx 1 4": Case(lambda: nclx(1, 4), "64x32 c92323 38b649 2350c8 818181 dda238 6ee0c4"),
    "avif nclx 2 2": Case(lambda: nclx(2, 2), PLAIN),
    "avif nclx 12 2": Case(lambda: nclx(12, 2), "64x32 da001a 00b837 1552ce 808080 e79e12 2ce2c2"),
    "avif nclx 2 8": Case(lambda: nclx(2, 8), LINEAR),
    "avif nclx and ICC": Case(lambda: nclx(12, 13, icc_profile=ICC_SWAPPED), SWAPPED),
    "avif nclx unspecified and ICC": Case(lambda: nclx(2, 2, icc_profile=ICC_SWAPPED), SWAPPED),
    "avif nclx 9 16, PQ": Case(lambda: nclx(9, 16), "64x32 ff0000 00ff00 0008ff 848484 ff1800 00ff97", PLAIN, HDR),
    "avif animation": Case(
        lambda: encode(PATCHES, "AVIF", save_all=True, append_images=[TURNED], quality=100, subsampling="4:4:4"),
        "64x32 d31d1e 34be45 1d4bd1 828282 eca936 70f0d0",
        PLAIN,
        FAULT,
    ),
    "avif cut off": Case(lambda: avif()[:-200], NOTHING),
    "avif bytes behind": Case(lambda: avif() + b"hello" * 30, PLAIN),
}


def probe(image: Image.Image) -> list[tuple[int, ...]]:
    width, height = image.size
    right, bottom = width - 4, height - 4
    places = [(3, 3), (right, 3), (right, bottom), (3, bottom), (width // 2 + 3, height // 2 + 3), (12, 6)]
    found = [image.getpixel((min(x, width - 1), min(y, height - 1))) for x, y in places]
    return [colour for colour in found if isinstance(colour, tuple)]


@pytest.mark.parametrize("name", CASES)
def test_as_shown(name: str) -> None:
    case = CASES[name]
    if case.expected in (NOTHING, BROKEN, UNREADABLE):
        with pytest.raises(ImageUnreadable):
            open_image(case.build())
        return
    rgb = open_image(case.build()).rgb
    size, *colours = case.expected.split()
    assert f"{rgb.width}x{rgb.height}" == size
    for found, recorded in zip(probe(rgb), colours, strict=True):
        # 3 for two roundings and two decoders of lossy formats, and 2 because like recordings share one line.
        assert max(abs(a - b) for a, b in zip(found, bytes.fromhex(recorded), strict=True)) <= 5, (found, recorded)


@pytest.mark.skipif(chromium.find() is None, reason="no chromium on PATH to compare with")
def test_as_chromium_shows_it_now() -> None:
    cases = {name: case for name, case in CASES.items() if not case.ours}
    data = {name: case.build() for name, case in cases.items()}
    differences = {}
    for name, shown in chromium.show(data).items():
        try:
            ours = open_image(data[name]).rgb
        except ImageUnreadable:
            if shown is not None and shown.painted:
                differences[name] = "shown, but unreadable here"
            continue
        if shown is None or not shown.painted:
            differences[name] = "not shown, but read here"
        elif shown.rgb.size != ours.size:
            differences[name] = f"{shown.rgb.size} shown, {ours.size} here"
        else:
            mean = ImageStat.Stat(ImageChops.difference(shown.rgb, ours)).mean
            # Of 255: two roundings and two decoders of lossy formats.
            if sum(mean) / 3 > 3:
                differences[name] = f"{sum(mean) / 3:.1f} of 255 off"
    assert not differences
