from __future__ import annotations

import pytest
import torch

from m3agiqa.bench.precision import SPREAD, Precision, PrecisionSettings, _matching, run
from m3agiqa.bench.synthetic import random_network
from m3agiqa.contract import Aspect
from m3agiqa.model.shape import Shape

CPU = torch.device("cpu")
SHAPE = Shape(
    vocab=400,
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    ffn=96,
    vision_hidden=32,
    vision_layers=1,
    vision_heads=2,
    vision_ffn=32,
    queries=4,
    rank=4,
    head_width=64,
)


@pytest.fixture(scope="module")
def found() -> dict[torch.dtype, Precision]:
    return {
        dtype: run(PrecisionSettings(dtype=dtype, images=4, tokens=4), CPU, SHAPE)
        for dtype in (torch.bfloat16, torch.float32)
    }


@pytest.mark.slow
def test_float32_differs_from_itself_by_its_rounding_alone(found: dict[torch.dtype, Precision]) -> None:
    exact = found[torch.float32]
    assert exact.from_float32 < 1e-3
    assert exact.alone_from_batch < 1e-3
    assert exact.written_from_read < 1e-3
    assert exact.tokens_matching == exact.descriptions_matching == 1


@pytest.mark.slow
def test_what_eight_bits_do_to_a_score_is_seen(found: dict[torch.dtype, Precision]) -> None:
    rounded, exact = found[torch.bfloat16], found[torch.float32]
    assert rounded.from_float32 > 10 * exact.from_float32
    assert rounded.written_from_read < 0.2
    assert 0 < rounded.from_float32 < 1
    assert 0 <= rounded.descriptions_matching <= rounded.tokens_matching <= 1


@pytest.mark.slow
def test_scores_spread_as_far_as_a_difference_needs_to_count(found: dict[torch.dtype, Precision]) -> None:
    assert found[torch.float32].spread == pytest.approx(SPREAD, abs=0.01) or found[torch.float32].spread > SPREAD
    assert found[torch.bfloat16].spread > 0.5


def test_tokens_match_place_by_place() -> None:
    assert _matching(["a", "b", "c", "d"], ["a", "x", "c"]) == 0.5
    assert _matching(["a"], ["a"]) == 1
    assert _matching(["b", "a"], ["a", "b"]) == 0


def test_weights_are_the_same_numbers_in_both_dtypes() -> None:
    wide, narrow = (
        random_network(SHAPE, device=CPU, dtype=dtype, stored=torch.bfloat16)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(wide.language.lm_head, narrow.language.lm_head.float())
    one, other = (network.heads[Aspect.QUALITY].projection.weight for network in (wide, narrow))
    assert torch.equal(one, other)
    unrounded = random_network(SHAPE, device=CPU, dtype=torch.float32)
    assert not torch.equal(unrounded.language.lm_head, wide.language.lm_head)
