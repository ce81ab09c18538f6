from __future__ import annotations

import pytest
import torch

from m3agiqa.bench import card
from m3agiqa.bench.card import Card


def test_rates_count_operations_and_bytes_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a device that takes half a second for anything
    monkeypatch.setattr(card, "_seconds", lambda work, device: (work(), 0.5)[1])
    # when a product of 16 x 16 and a copy of 1000 bytes are measured
    measured = Card.measure(torch.device("cpu"), torch.float32, side=16, copied=1000)
    # then
    assert measured == Card(flops=2 * 16**3 / 0.5, bytes_per_s=2 * 1000 / 0.5)


def test_a_measurement_is_of_this_machine() -> None:
    measured = Card.measure(torch.device("cpu"), torch.float32, side=32, copied=4096)
    assert measured.flops > 0
    assert measured.bytes_per_s > 0
