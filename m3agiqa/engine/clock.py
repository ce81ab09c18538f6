"""How long the stages of a batch take."""

from __future__ import annotations

import time

import torch


class Clock:
    """Milliseconds between marks; marks of one name add up.

    A GPU's own events there, so that no mark waits for it; elsewhere the processor's time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, torch.cuda.Event | float]] = []
        self.mark("")

    def mark(self, name: str) -> None:
        """What was begun since the mark before was `name`."""
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
