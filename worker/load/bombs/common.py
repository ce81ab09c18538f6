"""What bombs have in common: how large they are, and images that an encoder writes."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

from PIL import Image

#: Functions that make a file each, by the file's name: its format, and what is wrong with it.
Makers = dict[str, Callable[[], bytes]]

#: Pixels a side. 8192 x 8192 are almost as many as are let through.
LARGE = 8192
#: Pixels a side of an image that looks as light as any, and is decoded beside them.
LIGHT = 2100
SMALL = 64
#: Bytes of a file, a little below what is fetched at most (32 MiB).
MOST_BYTES = 32 * 2**20 - 4096


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def noise(side: int, format_: str, **options: object) -> bytes:
    noise = Image.frombytes("RGB", (2048, 2048), random.Random(1).randbytes(3 * 2048**2))
    return saved(noise.resize((side, side)), format_, **options)
