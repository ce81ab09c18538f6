"""Times the stages of a batch."""

from __future__ import annotations

import time

import torch


class Clock:
    """Milliseconds between marks; marks of one name add up.

    On a GPU, marks are events, so that none waits for it; elsewhere they read the host's clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, torch.cuda.Event | float]] = []
        self.mark("")

    def mark(self, name: str) -> None:
        """End the stage `name`, which began at the mark before."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append((name, event))
        else:
            self._marks.append((name, time.perf_counter()))

    def times_ms(self) -> dict[str, float]:
        """Milliseconds of each stage, by name; waits for the GPU."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        times: dict[str, float] = {}
        for (_, before), (name, after) in zip(self._marks, self._marks[1:], strict=False):
            times[name] = times.get(name, 0.0) + _between_ms(before, after)
        return times


def _between_ms(before: torch.cuda.Event | float, after: torch.cuda.Event | float) -> float:
    if isinstance(before, float) and isinstance(after, float):
        return (after - before) * 1000
    assert not isinstance(before, float)
    assert not isinstance(after, float)
    milliseconds: float = before.elapsed_time(after)
    return milliseconds
