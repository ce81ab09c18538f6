"""Bytes to a safe RGB picture.

Sizes are checked from the header, before any pixel is decoded.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

from m3agiqa.contract import ImageInfo
from m3agiqa.errors import ImageTooLarge, ImageUnreadable

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")

#: Pixels. 8192 x 8192 and a little: above what generators put out, 200 MB once decoded.
MAX_PIXELS = 68_000_000
#: Long side over short side. Beyond it a slice holds too few pixels across to say anything.
MAX_SIDE_RATIO = 100

#: EXIF orientation to what brings the picture upright; 1 is upright.
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
class Picture:
    """A decoded picture: `rgb` is 8-bit RGB, upright, opaque."""

    rgb: Image.Image
    info: ImageInfo


def open_picture(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode `data` to 8-bit RGB: EXIF orientation applied, alpha laid on white, 16-bit scaled by 1/257, first frame of
    an animation.

    Raises:
        ImageUnreadable: no picture, a format that is not accepted, or truncated.
        ImageTooLarge: more than `max_pixels` pixels, or one side over MAX_SIDE_RATIO times the other.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageUnreadable(f"not a picture in one of the formats {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLarge(f"more than {max_pixels} pixels") from None
    except Exception as error:
        raise ImageUnreadable(f"broken header ({type(error).__name__})") from error
    with image:
        _check_size(image.width, image.height, max_pixels)
        try:
            frames = int(getattr(image, "n_frames", 1))
            image.seek(0)
            image.load()
            rgb = _to_rgb(_upright(image))
        except Exception as error:
            # Decoders raise OSError, SyntaxError, struct.error, ValueError and others on broken data.
            raise ImageUnreadable(f"broken or truncated {image.format} ({type(error).__name__})") from error
        return Picture(
            rgb=rgb,
            info=ImageInfo(
                sha256=hashlib.sha256(data).hexdigest(),
                width=rgb.width,
                height=rgb.height,
                format=str(image.format),
                frames=frames,
            ),
        )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width}x{height} is more than {max_pixels} pixels")
    if max(width, height) > MAX_SIDE_RATIO * min(width, height):
        raise ImageTooLarge(f"{width}x{height}: one side is over {MAX_SIDE_RATIO} times the other")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        # Broken metadata is no broken picture: browsers show it as it lies. For the same reason this is not
        # ImageOps.exif_transpose, which writes all of the metadata anew and fails where one field is odd.
        orientation = None
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit greyscale, which Pillow would clip instead of scale
        image = image.convert("I").point(lambda sample: sample * (1 / 257) + 0.5).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image)
        image = opaque
    return image.convert("RGB")


def noise_picture(width: int, height: int, seed: int) -> Picture:
    """A picture of coloured blotches, the same from the same seed: to measure and check with."""
    coarse = Image.frombytes("RGB", (32, 32), hashlib.shake_256(str(seed).encode()).digest(32 * 32 * 3))
    out = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(out, "PNG")
    return open_picture(out.getvalue())
