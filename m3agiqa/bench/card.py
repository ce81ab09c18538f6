"""Measures what a card can do at most: how fast it copies, and how fast it multiplies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from m3agiqa.engine.clock import Clock

#: Side of the square matrices; larger ones are multiplied no faster.
_SIDE = 8192
#: Bytes of the copy; caches hold none of it.
_COPIED = 2**30
_REPEATS = 20


@dataclass(frozen=True)
class Card:
    """Rates measured on a device."""

    #: Floating-point operations a second of one large product.
    flops: float
    #: Bytes a second of one large copy, those read and those written.
    bytes_per_s: float

    @classmethod
    def measure(cls, device: torch.device, dtype: torch.dtype, *, side: int = _SIDE, copied: int = _COPIED) -> Card:
        """Measure, in medians; frees what it took."""
        multiplied_s, copied_s = _product_s(device, dtype, side), _copy_s(device, copied)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return cls(flops=2 * side**3 / multiplied_s, bytes_per_s=2 * copied / copied_s)


def _product_s(device: torch.device, dtype: torch.dtype, side: int) -> float:
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    return _seconds(lambda: torch.mm(left, right, out=product), device)


def _copy_s(device: torch.device, copied: int) -> float:
    source, target = (torch.zeros(copied, device=device, dtype=torch.uint8) for _ in range(2))
    return _seconds(lambda: target.copy_(source), device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds, after as many runs that do not count: a card takes a while to reach its clock rate."""
    for _ in range(_REPEATS):
        work()
    clock = Clock(device)
    for number in range(_REPEATS):
        work()
        clock.mark(str(number))
    return median(clock.times_ms().values()) / 1000
