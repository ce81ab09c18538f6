"""Sets the precision in which a GPU multiplies float32 numbers; torch keeps it for the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def products(*, exact: bool) -> Iterator[None]:
    """Multiply in float32, or in TF32 if `exact` is False; on leaving, restore the process's setting.

    The setting also holds for products that other threads begin meanwhile, so only one thread may be inside at a time.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = not exact
    try:
        yield
    finally:
        matmul.allow_tf32 = before
