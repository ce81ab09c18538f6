"""What a GPU multiplies float32 numbers in, which torch keeps as one setting of the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def products(*, exact: bool) -> Iterator[None]:
    """Multiply in float32, or in TF32 where `exact` is False; afterwards the process's setting is as it was.

    Products that another thread begins meanwhile follow: one thread at a time may be within.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = not exact
    try:
        yield
    finally:
        matmul.allow_tf32 = before
