"""Images as a caller has them, as bytes: of a file, of a `data:` URL, of Pillow's."""

from __future__ import annotations

import binascii
import io
import os
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias
from urllib.parse import unquote_to_bytes

from m3agiqa.errors import RequestInvalid

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

#: An image: the bytes of its file, a path to it, the file open for reading, an image of Pillow's, a `data:` URL.
Image: TypeAlias = "bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO | PillowImage"


def is_data_url(url: object) -> bool:
    return isinstance(url, str) and url[:5].lower() == "data:"


def bytes_of(image: Image) -> bytes:
    """The bytes of an image file. An image of Pillow's becomes a PNG, upright as its EXIF says.

    Raises:
        RequestInvalid: it cannot be read, or is empty.
    """
    try:
        data = _read(image)
    except (OSError, ValueError) as error:
        # The system's words alone: what the error shows may be a path.
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise RequestInvalid(f"image: cannot be read ({why})") from None
    if not isinstance(data, bytes) or not data:
        raise RequestInvalid(
            "image: must be bytes that are not empty, a pathlib.Path of a file, a file open for bytes, a data: URL, or "
            "Pillow's image"
        )
    return data


def _read(image: Image) -> object:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str):
        # It may come from a stranger, so it is no path.
        return _of_data_url(image) if is_data_url(image) else None
    if isinstance(image, os.PathLike):
        return _of_file(Path(image))
    if hasattr(image, "read"):
        return image.read()
    if hasattr(image, "getexif"):
        return _as_png(image)
    return None


def _of_file(path: Path) -> bytes:
    if not path.is_file():
        raise RequestInvalid("image: its path leads to no file")
    return path.read_bytes()


def _of_data_url(url: str) -> bytes:
    head, _, body = url.partition(",")
    data = unquote_to_bytes(body)
    try:
        return b64decode(data, validate=True) if head.lower().endswith(";base64") else data
    except binascii.Error:
        raise RequestInvalid("image: a data: URL whose base64 is malformed") from None


def _as_png(image: PillowImage) -> bytes:
    from PIL import ImageOps

    out = io.BytesIO()
    ImageOps.exif_transpose(image).save(out, "PNG")
    return out.getvalue()
