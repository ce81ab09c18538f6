"""Bytes to images: every mode there is comes out as upright, opaque RGB, and everything else as a typed failure."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m3agiqa import images
from m3agiqa.errors import ImageError, ImageTooCostly, ImageTooLarge, ImageUnreadable
from m3agiqa.images import FORMATS, MAX_SIDE_RATIO, decode, noise_image, open_image, read_header


def encode(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], *, before: bytes = b"") -> bytes:
    """A PNG of any bit depth, which Pillow cannot write; `colour` 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def pixels(data: bytes) -> list[tuple[int, int, int]]:
    rgb = open_image(data).rgb
    assert rgb.mode == "RGB"
    raw = rgb.tobytes()
    return [(raw[start], raw[start + 1], raw[start + 2]) for start in range(0, len(raw), 3)]


def test_what_is_known_of_an_image() -> None:
    data = encode(Image.new("RGB", (30, 20), "red"))
    image = open_image(data)
    assert image.rgb.size == (30, 20)
    assert image.info.model_dump() == {
        "sha256": hashlib.sha256(data).hexdigest(), "width": 30, "height": 20, "format": "PNG", "frames": 1,
    }  # fmt: skip


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format(format_: str) -> None:
    image = open_image(encode(Image.new("RGB", (32, 32), (0, 128, 0)), format_))
    assert image.info.format == format_
    red, green, blue = image.rgb.getpixel((16, 16))  # type: ignore[misc]
    # Lossy formats may be off a little.
    assert red <= 4
    assert blue <= 4
    assert abs(green - 128) <= 4


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("white", [False, True])
def test_grey_palette_and_bitmap(mode: str, white: bool) -> None:
    image = Image.new("L", (3, 1), 255 * white).convert(mode)
    assert pixels(encode(image)) == [(255 * white,) * 3] * 3


def test_alpha_is_laid_on_white() -> None:
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 255, 51)):
        image.putpixel((x, 0), (100, 0, 0, alpha))
    # One fifth of (100, 0, 0) on white.
    assert pixels(encode(image)) == [(255, 255, 255), (100, 0, 0), (224, 204, 204)]
    grey = Image.new("LA", (2, 1), (100, 0))
    grey.putpixel((1, 0), (100, 255))
    assert pixels(encode(grey)) == [(255, 255, 255), (100, 100, 100)]


def test_a_transparent_palette_entry_is_laid_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert pixels(encode(image, transparency=0)) == [(255, 255, 255), (40, 50, 60)]
    assert pixels(encode(image, transparency=bytes([255, 0]))) == [(10, 20, 30), (255, 255, 255)]
    assert pixels(encode(image, "GIF", transparency=1)) == [(10, 20, 30), (255, 255, 255)]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = png(4, 1, 16, 0, [struct.pack(">4H", 0, 128 * 257, 65535, 300)])
    assert pixels(grey) == [(0,) * 3, (128,) * 3, (255,) * 3, (1,) * 3]
    colour = png(2, 1, 16, 2, [struct.pack(">6H", 10 * 257, 20 * 257, 30 * 257, 65535, 0, 255 * 257)])
    assert pixels(colour) == [(10, 20, 30), (255, 0, 255)]
    alpha = png(2, 1, 16, 6, [struct.pack(">8H", 10 * 257, 20 * 257, 30 * 257, 65535, 65535, 0, 0, 0)])
    assert pixels(alpha) == [(10, 20, 30), (255, 255, 255)]
    grey_alpha = png(2, 1, 16, 4, [struct.pack(">4H", 10 * 257, 65535, 100 * 257, 0)])
    assert pixels(grey_alpha) == [(10, 10, 10), (255, 255, 255)]


def test_a_cmyk_jpeg() -> None:
    data = encode(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG")
    red, green, blue = open_image(data).rgb.getpixel((8, 8))  # type: ignore[misc]
    assert red < 10
    assert min(green, blue) > 245


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    image = Image.new("RGB", (64, 32), "white")
    image.paste((0, 0, 0), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encode(image, "JPEG", exif=exif, quality=95))

    assert image.rgb.size == ((32, 64) if orientation >= 5 else (64, 32))
    assert (image.info.width, image.info.height) == image.rgb.size
    width, height = image.rgb.size
    corners = [(4, 4), (width - 5, 4), (width - 5, height - 5), (4, height - 5)]
    dark = [sum(image.rgb.getpixel(corner)) < 200 for corner in corners]  # type: ignore[arg-type, misc]
    # Where the stored top left corner belongs, clockwise from the top left: EXIF 2.3, table 4.
    assert dark.index(True) == {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 1, 7: 2, 8: 3}[orientation]
    assert sum(dark) == 1


def test_odd_metadata_does_not_cost_the_image_or_its_orientation() -> None:
    # Text in MaxSampleValue (0x0119), which Pillow reads but cannot write.
    odd = struct.pack(">HHLL", 0x0119, 2, 6, 38) + struct.pack(">HHLHH", 0x0112, 3, 1, 6, 0)
    tiff = b"MM\0*" + struct.pack(">LH", 8, 2) + odd + struct.pack(">L", 0) + b"maker\0"
    data = encode(Image.new("RGB", (16, 8), "red"), "JPEG", exif=b"Exif\0\0" + tiff)
    assert open_image(data).rgb.size == (8, 16)


def test_metadata_that_is_none_does_not_cost_the_image() -> None:
    for format_ in ("JPEG", "PNG", "WEBP"):
        data = encode(Image.new("RGB", (16, 8), "red"), format_, exif=b"Exif\0\0" + b"garbage, no TIFF" * 3)
        assert open_image(data).rgb.size == (16, 8)


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "AVIF"])
def test_the_first_frame_of_an_animation_is_taken(format_: str) -> None:
    frames = [Image.new("RGB", (24, 24), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], format_, save_all=True, append_images=frames[1:], duration=100)
    image = open_image(data)
    assert image.info.frames == 3
    red, green, blue = image.rgb.getpixel((12, 12))  # type: ignore[misc]
    assert red > 245
    assert max(green, blue) < 10


@pytest.mark.parametrize("size", [(1, 1), (100, 3000), (3000, 100), (1, MAX_SIDE_RATIO)])
def test_unusual_sizes(size: tuple[int, int]) -> None:
    assert open_image(encode(Image.new("RGB", size))).rgb.size == size


@pytest.mark.parametrize("size", [(1, MAX_SIDE_RATIO + 1), (2000, 19)])
def test_sides_too_unequal(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge, match="times the other"):
        open_image(encode(Image.new("RGB", size)))


@pytest.mark.parametrize("side", [8_300, 10_000, 60_000, 2**31 - 1])
def test_huge_sizes_are_refused_by_the_header_alone(side: int) -> None:
    with pytest.raises(ImageTooLarge):
        open_image(png(side, side, 8, 2, [b""]))


def test_the_limit_can_be_set() -> None:
    data = encode(Image.new("RGB", (20, 20)))
    assert open_image(data, max_pixels=400)
    with pytest.raises(ImageTooLarge, match="20x20 is more than 399 pixels"):
        open_image(data, max_pixels=399)


@pytest.mark.parametrize(
    ("format_", "bytes_a_pixel"), [("JPEG", 16), ("PNG", 12), ("WEBP", 20), ("GIF", 12), ("AVIF", 24)]
)
def test_memory_is_foreseen_by_the_header_alone(format_: str, bytes_a_pixel: int) -> None:
    header = read_header(encode(Image.new("RGB", (30, 20)), format_))
    assert (header.pixels, header.working_bytes) == (600, 600 * bytes_a_pixel)


def test_scans_cost_as_many_pixels_as_they_go_over(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("RGB", (30, 20)), "JPEG", progressive=True)
    scans = read_header(data).still.passes
    assert scans > 1
    monkeypatch.setattr(images, "MAX_SCANNED_PIXELS", scans * 600)
    assert read_header(data)
    monkeypatch.setattr(images, "MAX_SCANNED_PIXELS", scans * 600 - 1)
    with pytest.raises(ImageTooCostly, match=f"{scans} scans of 30x20 pixels"):
        read_header(data)


def test_a_decoder_that_finds_another_size_is_not_trusted() -> None:
    header = read_header(encode(Image.new("RGB", (30, 20))))
    with pytest.raises(ImageUnreadable, match="two sizes"):
        decode(replace(header, still=replace(header.still, size=(20, 30))))


def test_noise_follows_its_seed() -> None:
    one, same, other = (noise_image(40, 30, seed) for seed in (1, 1, 2))
    assert one.rgb.size == (40, 30)
    assert one.rgb.tobytes() == same.rgb.tobytes() != other.rgb.tobytes()
    # Unresized it is the bytes themselves, on which kept start-up checks rest.
    assert noise_image(32, 32, 1).rgb.tobytes() == hashlib.shake_256(b"1").digest(3 * 32 * 32)


def test_what_pillow_refuses_by_its_size_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("RGB", (32, 32)), "AVIF")
    for limit in (1_000, 500):  # Pillow warns above its limit, and refuses above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageTooLarge, match="more pixels than the decoder takes"):
            read_header(data)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_image_is_no_image(format_: str, kept: float) -> None:
    data = sample(format_)
    with pytest.raises(ImageUnreadable):
        open_image(data[: int(len(data) * kept)])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.4",
        encode(Image.new("RGB", (8, 8)), "TIFF"),
        encode(Image.new("RGB", (8, 8)), "BMP"),
        png(0, 5, 8, 2, [b""]),
    ],
    ids=["empty", "text", "png", "jpeg", "gif", "svg", "pdf", "tiff", "bmp", "no-width"],
)
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ImageUnreadable):
        open_image(data)


@cache
def sample(format_: str) -> bytes:
    # Noise hardly compresses, so a cut goes through pixels and not through padding behind them.
    return encode(Image.effect_noise((48, 40), 90).convert("RGB"), format_)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_give_an_image_or_a_typed_failure(data: st.DataObject) -> None:
    damaged = bytearray(sample(data.draw(st.sampled_from(FORMATS))))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        match data.draw(st.sampled_from(("change", "cut", "insert"))):
            case "change":
                damaged[place] = data.draw(st.integers(0, 255))
            case "cut":
                del damaged[place : place + data.draw(st.integers(1, 20))]
            case "insert":
                damaged[place:place] = data.draw(st.binary(max_size=20))
        if not damaged:
            break
    try:
        image = open_image(bytes(damaged), max_pixels=1_000_000)
    except ImageError:
        return
    assert image.rgb.mode == "RGB"
    assert image.rgb.size == (image.info.width, image.info.height)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF"]))
def test_any_bytes_give_an_image_or_a_typed_failure(data: bytes, start: bytes) -> None:
    try:
        image = open_image(start + data, max_pixels=1_000_000)
    except ImageError:
        return
    assert image.rgb.mode == "RGB"


def test_threads_may_start_at_once() -> None:
    # In a process of its own: Pillow loads its decoders when the first image is opened.
    program = """
import io, sys, threading
from m3agiqa.images import open_image
data = bytes.fromhex(sys.stdin.read())
barrier = threading.Barrier(16)
results = []
def decode():
    barrier.wait()
    results.append(open_image(data).rgb.size)
threads = [threading.Thread(target=decode) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert results == [(48, 40)] * 16, results
"""
    for format_ in ("AVIF", "WEBP"):
        done = subprocess.run(
            [sys.executable, "-c", program], input=sample(format_).hex(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
