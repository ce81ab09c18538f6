from __future__ import annotations

from pathlib import Path

import pytest
import torch

from m3agiqa.errors import CheckpointError, OutputError
from m3agiqa.train.head.cache import StateCache


def test_states_come_back(tmp_path: Path) -> None:
    cache = StateCache(tmp_path, {"weights": "a"}, 1e6)
    states = torch.randn(5, 8)

    cache.write("x", states)

    assert "x" in cache
    assert "y" not in cache
    assert torch.equal(cache.read("x"), states.half())
    assert "x" in StateCache(tmp_path, {"weights": "a"}, 1e6)


def test_states_made_in_inference_mode_and_views_of_larger_ones_are_kept(tmp_path: Path) -> None:
    cache = StateCache(tmp_path, {}, 1e6)
    with torch.inference_mode():
        states = torch.randn(4, 6).bfloat16()
        cache.write("x", states[:, ::2])

    assert torch.equal(cache.read("x"), states[:, ::2])


def test_other_weights_or_words_are_another_cache(tmp_path: Path) -> None:
    StateCache(tmp_path, {"weights": "a"}, 1e6).write("x", torch.randn(2, 2))

    assert "x" not in StateCache(tmp_path, {"weights": "b"}, 1e6)
    assert len(list(tmp_path.glob("*/key.json"))) == 2


@pytest.mark.parametrize("where", [20, -1])
def test_damage_is_seen(tmp_path: Path, where: int) -> None:
    cache = StateCache(tmp_path, {}, 1e6)
    cache.write("x", torch.randn(5, 8))
    [path] = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)

    assert "x" not in cache
    with pytest.raises(CheckpointError, match="damaged"):
        cache.read("x")
    cache.write("x", torch.zeros(5, 8))
    assert "x" in cache


def test_the_bound_holds_over_all_keys_and_runs(tmp_path: Path) -> None:
    StateCache(tmp_path, {"weights": "old"}, 10_000).write("x", torch.zeros(40, 100))

    with pytest.raises(OutputError, match="cache_gb"):
        StateCache(tmp_path, {"weights": "new"}, 10_000).write("x", torch.zeros(40, 100))
