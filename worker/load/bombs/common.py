"""What bombs have in common: how large they are, and images that an encoder writes."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

from PIL import Image

#: Functions that make a file each, by the file's name: its format, and what is wrong with it.
Makers = dict[str, Callable[[], bytes]]

#: Side of a large image, pixels: 8192 x 8192 is just below the limit.
LARGE = 8192
#: Side of an image that looks cheap enough for the quick decoders, pixels.
LIGHT = 2100
SMALL = 64
#: Bytes of a large file: just below what a worker fetches at most (32 MiB).
MOST_BYTES = 32 * 2**20 - 4096


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def noise(side: int, format_: str, **options: object) -> bytes:
    noise = Image.frombytes("RGB", (2048, 2048), random.Random(1).randbytes(3 * 2048**2))
    return saved(noise.resize((side, side)), format_, **options)
