"""Turns a file's bytes into a safe RGB image, as a viewer shows it.

`containers` finds the still image in a file, Pillow decodes it, and `colour` brings it to sRGB. The size is checked in
the header, before any pixel is decoded.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace

from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError

from m3agiqa import containers
from m3agiqa.colour import Colour, to_srgb
from m3agiqa.containers import FORMATS, Still, png
from m3agiqa.contract import MAX_PIXELS, ImageInfo
from m3agiqa.errors import ImageError, ImageTooCostly, ImageTooLarge, ImageUnreadable

__all__ = ["FORMATS", "MAX_SIDE_RATIO", "Image", "decode", "open_image", "open_picture", "read_header"]

#: Greatest ratio of the long side to the short one. A narrower image has too few pixels across to be judged.
MAX_SIDE_RATIO = 100
#: Pixels times scans of a progressive JPEG. Encoders write about 10 scans, and even an empty one costs 0.1 ns a pixel.
MAX_SCANNED_PIXELS = 7_000_000_000

#: Most bytes of memory that decoding takes for each pixel, including the finished image (4 bytes) and its copy in RGB.
_BYTES_A_PIXEL = {"JPEG": 16, "PNG": 12, "WEBP": 20, "GIF": 12, "AVIF": 24}
#: Rows that are laid on white at a time: a strip needs no second copy of the whole image.
_STRIP = 256

#: What turns an image of this EXIF orientation upright; 1 is upright already.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image: `rgb` is 8-bit RGB, upright, opaque."""

    rgb: Image.Image
    info: ImageInfo


@dataclass(frozen=True)
class Undecoded:
    """An image that is small enough to be decoded, as its header says."""

    still: Still
    #: SHA-256 of the file as it came.
    sha256: str
    #: Pixels of the canvas, before the orientation is applied.
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def working_bytes(self) -> int:
        """Most bytes of memory that decoding takes."""
        return self.pixels * _BYTES_A_PIXEL[self.still.format]


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode `data` to 8-bit RGB as a viewer shows it: sRGB, EXIF orientation applied, alpha laid on white, 16-bit
    scaled by 1/257, first frame of an animation.

    Raises:
        ImageUnreadable: `data` is no image, has a format that is not accepted, or is truncated.
        ImageTooLarge: it has more than `max_pixels` pixels, or one side is over MAX_SIDE_RATIO times the other.
        ImageTooCostly: it has more parts or scans than a sound image.
    """
    return decode(read_header(data, max_pixels=max_pixels))


def read_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Undecoded:
    """Find the image in a file and check its size, without decoding a pixel.

    Raises:
        ImageUnreadable, ImageTooLarge, ImageTooCostly: as `open_image`.
    """
    still = containers.first_still(data)
    if still.size is None:
        with _opened(still) as image:
            still = replace(still, size=image.size, frames=int(getattr(image, "n_frames", 1)))
    assert still.size is not None
    width, height = canvas = still.canvas or still.size
    for size in (still.size, canvas):
        _check_size(*size, max_pixels)
    if still.passes * width * height > MAX_SCANNED_PIXELS:
        raise ImageTooCostly(f"{still.passes} scans of {width}x{height} pixels")
    return Undecoded(still, hashlib.sha256(data).hexdigest(), width, height)


#: Scripts written for 0.1 call `open_image` so.
open_picture = open_image


def decode(undecoded: Undecoded) -> DecodedImage:
    """Decode what `read_header` found.

    Raises:
        ImageUnreadable: it is broken or truncated.
        MemoryError: there is no room for it now, which says nothing about the image.
    """
    still = undecoded.still
    try:
        with _opened(still) as image:
            if image.size != still.size:
                raise ImageUnreadable(f"broken {still.format} (two sizes)")
            rgb = _shown(still, image, (undecoded.width, undecoded.height))
            if (turn := _TURNS.get(_orientation(still, image))) is not None:
                rgb = rgb.transpose(turn)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Decoders raise OSError, SyntaxError, struct.error, ValueError and others on broken data.
        raise ImageUnreadable(f"broken or truncated {still.format} ({type(error).__name__})") from error
    return DecodedImage(
        rgb=rgb,
        info=ImageInfo(
            sha256=undecoded.sha256, width=rgb.width, height=rgb.height, format=still.format, frames=still.frames
        ),
    )


def _opened(still: Still) -> Image.Image:
    try:
        return Image.open(io.BytesIO(still.data), formats=(still.format,))
    except UnidentifiedImageError:
        raise ImageUnreadable(f"broken or truncated {still.format} (header)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLarge("more pixels than the decoder takes") from None
    except MemoryError:
        raise
    except Exception as error:
        raise ImageUnreadable(f"broken header ({type(error).__name__})") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width}x{height} is more than {max_pixels} pixels")
    if max(width, height) > MAX_SIDE_RATIO * min(width, height):
        raise ImageTooLarge(f"{width}x{height}: one side is over {MAX_SIDE_RATIO} times the other")


def _shown(still: Still, image: Image.Image, canvas: tuple[int, int]) -> Image.Image:
    """The canvas in RGB: the image in its colours, and white where it is transparent or leaves the canvas free."""
    colour = still.colour
    if icc := image.info.get("icc_profile"):  # an AVIF's, which the walk over its boxes does not read
        colour = Colour(icc=icc)
    if still.transparent is not None:
        image = _with_exact_alpha(still)
    image.load()
    if still.format == "PNG":
        _check_rows(still, image)
    opaque = _on_white(to_srgb(_plain(image), colour))
    if opaque.size == canvas:
        return opaque
    whole = Image.new("RGB", canvas, "white")
    whole.paste(opaque, still.offset)
    return whole


def _check_rows(still: Still, image: Image.Image) -> None:
    """Find missing rows, which Pillow leaves black. Counting rows costs time, so only a black last row is a reason to.

    Raises:
        ImageUnreadable: the image data lacks rows.
    """
    last = image.crop((0, image.height - 1, image.width, image.height))
    if last.getbbox(alpha_only=False) is None and not png.is_complete(still.data):
        raise ImageUnreadable("truncated PNG (rows)")


def _plain(image: Image.Image) -> Image.Image:
    """`image` in mode L, LA, RGB, RGBA or CMYK with the same samples. 16-bit grey is scaled; Pillow would clip it."""
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda sample: sample * (1 / 257) + 0.5).convert("L")
    if image.mode in ("1", "L") and image.has_transparency_data:
        return image.convert("LA")
    if image.mode in ("RGB", "P") and image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("P", "PA", "La", "RGBa", "RGBX"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.convert("L") if image.mode == "1" else image


def _with_exact_alpha(still: Still) -> Image.Image:
    """A 16-bit PNG with one transparent colour, whose neighbours may differ from it in the low bits alone."""
    assert still.transparent is not None
    halves = [_opened(replace(still, data=half)) for half in png.halves(still.data)]
    differs: Image.Image | None = None
    for half, shift in zip(halves, (8, 0), strict=True):
        for band, sample in zip(half.split(), still.transparent, strict=True):
            wanted = sample >> shift & 255
            other = band.point([0 if value == wanted else 255 for value in range(256)])
            differs = other if differs is None else ImageChops.lighter(differs, other)
    assert differs is not None
    high = halves[0]
    high.putalpha(differs)
    return high


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode not in ("LA", "RGBA"):
        return image.convert("RGB")
    opaque = Image.new("RGB", image.size, "white")
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        opaque.paste(strip.convert("RGB"), (0, top), strip.getchannel("A"))
    return opaque


def _orientation(still: Still, image: Image.Image) -> int:
    """Orientation as the container says. For an AVIF, Pillow reports the turns of its boxes in place of EXIF's."""
    if still.orientation is not None:
        return still.orientation
    image.info.pop("xmp", None)  # Pillow would obey it, and no viewer does
    return int(image.getexif().get(ExifTags.Base.Orientation) or 1)


def noise_image(width: int, height: int, seed: int) -> DecodedImage:
    """An image of coloured blotches to measure and check with; equal seeds give equal images."""
    coarse = Image.frombytes("RGB", (32, 32), hashlib.shake_256(str(seed).encode()).digest(32 * 32 * 3))
    out = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(out, "PNG")
    return open_image(out.getvalue())
