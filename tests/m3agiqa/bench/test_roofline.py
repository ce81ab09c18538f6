from __future__ import annotations

import pytest

from m3agiqa.bench.card import Card
from m3agiqa.bench.roofline import (
    FLOPS,
    HEAD_SHARE,
    STEP_MS,
    applies_to,
    card_floors_ms,
    decode_ms,
    floors_ms,
    head_flops,
    language_flops,
    step_ms,
    vision_flops,
)
from m3agiqa.bench.stages import Measured, Report, StageSettings
from m3agiqa.bench.workload import Work
from m3agiqa.cli.bench import _table
from m3agiqa.model.shape import Shape

SMALL = Shape(
    vocab=10,
    hidden=4,
    layers=2,
    heads=2,
    kv_heads=1,
    ffn=6,
    vision_hidden=3,
    vision_layers=2,
    vision_heads=1,
    vision_ffn=5,
    queries=2,
    rank=1,
    head_width=8,
)


def test_reading_counts_products_and_pairs_of_tokens() -> None:
    # A layer: q and o 4x4, k and v 2x4, three of 4x6, together 120; changes of rank 1: 8 + 6 + 6 + 8 = 28.
    per_token = 2 * 2 * (120 + 28)
    # Two tokens behind three: the first sees four, the second five; each pair costs 4 * hidden a layer.
    assert language_flops(SMALL, 3, 2) == 2 * per_token + 2 * 4 * 4 * (4 + 5)
    assert language_flops(SMALL, 0, 5) == language_flops(SMALL, 0, 3) + language_flops(SMALL, 3, 2)


def test_a_slice_counts_embedding_layers_and_resampler() -> None:
    # Seven patches of 3 * 14 * 14 numbers. A layer: 4 * 3 * 3 + 2 * 3 * 5 = 66 weights and 49 pairs.
    layers = 2 * (2 * 7 * 66 + 4 * 49 * 3)
    resampler = 2 * 7 * (3 * 4) + 2 * 7 * 2 * 16 + 4 * 2 * 7 * 4 + 2 * 2 * 2 * 16
    assert vision_flops(SMALL, 7) == 2 * 7 * 588 * 3 + layers + resampler


def test_a_head_counts_its_four_blocks() -> None:
    # Width 8, inner 16, feed-forward 64; 3 tokens make 6 pairs.
    mlstm = 2 * 3 * (8 * 32 + 192 + 384 + 16 * 8) + 4 * 16 * 6
    assert head_flops(SMALL, 3) == 2 * 3 * 4 * 8 + 3 * mlstm + 2 * 3 * (2 * 64 + 3 * 8 * 64)


def test_the_published_language_model_takes_fourteen_gigaflop_a_token() -> None:
    # 8.03 G parameters less two tables of 525 M, and 54.5 M of an adapter.
    assert language_flops(Shape(), 0, 1) == pytest.approx(2 * (8.03e9 - 2 * 0.525e9 + 54.5e6), rel=0.001)


@pytest.mark.parametrize(("rows", "ms"), [*STEP_MS, (5, 7.8), (180, 11.45), (864, 32.9), (0, 7.5)])
def test_a_step_lies_on_the_lines_between_what_was_measured(rows: int, ms: float) -> None:
    assert step_ms(rows) == pytest.approx(ms)


def test_decoding_counts_the_rows_that_still_go_on() -> None:
    # Three beams each: nine rows for the second token, six for the third, three for the fourth.
    assert decode_ms([2, 4, 3], 3) == pytest.approx(step_ms(9) + step_ms(6) + step_ms(3))
    assert decode_ms([1, 0], 3) == decode_ms([], 3) == 0


def test_the_stages_are_what_was_encoded_read_written_and_read_on() -> None:
    work = Work(
        encoded=((3, 7), (1, 5)), encoded_again=((2, 7),), prompts=(20, 30), generated=(2, 2), read=((20, 9), (0, 40))
    )

    floors = floors_ms(work, SMALL, 3)

    assert floors["encode"] == pytest.approx((3 * vision_flops(SMALL, 7) + vision_flops(SMALL, 5)) / FLOPS * 1e3)
    prompts = language_flops(SMALL, 0, 20) + language_flops(SMALL, 0, 30) + 2 * 2 * 10 * 4
    assert floors["prefill"] == pytest.approx(prompts / FLOPS * 1e3)
    assert floors["decode"] == pytest.approx(step_ms(6))
    read = 2 * vision_flops(SMALL, 7) + language_flops(SMALL, 20, 9) + language_flops(SMALL, 0, 40)
    heads = head_flops(SMALL, 29) + head_flops(SMALL, 40)
    assert floors["rate"] == pytest.approx((read + heads / HEAD_SHARE) / FLOPS * 1e3)


#: So fast at one thing that the other alone takes time.
ONLY_PRODUCTS, ONLY_MEMORY = Card(flops=1e6, bytes_per_s=1e30), Card(flops=1e30, bytes_per_s=1e6)
WORK = Work(encoded=((3, 7),), encoded_again=(), prompts=(20, 30), generated=(2, 3), read=((21, 9), (0, 40)))
#: Bytes of the weights: 120 in each of two layers, three adapters' changes of 28, and 10 words of 4.
WEIGHTS = 2 * (2 * 120 + 3 * 2 * 28 + 10 * 4)


def test_a_card_multiplies_what_was_read_and_written() -> None:
    floors = card_floors_ms(WORK, SMALL, 3, ONLY_PRODUCTS)

    torchs = floors_ms(WORK, SMALL, 3)
    for stage in ("encode", "prefill", "rate"):
        assert floors[stage] == pytest.approx(torchs[stage] * FLOPS / 1e6)
    # Both prompts' three beams write a second token, and those of one a third.
    a_beam = language_flops(SMALL, 0, 1) + 2 * 10 * 4
    assert floors["decode"] == pytest.approx((6 + 3) * a_beam / 1e6 * 1e3)


def test_a_card_reads_weights_in_each_step_and_the_cache() -> None:
    floors = card_floors_ms(WORK, SMALL, 3, ONLY_MEMORY)

    assert floors["encode"] == pytest.approx(0, abs=1e-9)
    assert floors["prefill"] == floors["rate"] == pytest.approx(WEIGHTS / 1e6 * 1e3)
    # A key and a value of one head of 2 in two layers; prompts of 20 and 30 and a token, then of 30 and two.
    cache = 2 * 2 * 2 * 2 * ((21 + 31) + 32)
    assert floors["decode"] == pytest.approx((2 * WEIGHTS + cache) / 1e6 * 1e3)


def test_the_published_steps_read_fifteen_gigabytes() -> None:
    one = Work((), (), prompts=(0,), generated=(2,), read=())
    assert card_floors_ms(one, Shape(), 1, Card(1e30, 1e9))["decode"] == pytest.approx(15_340, rel=0.01)


def test_floors_are_those_of_an_h100_and_shown_there_alone() -> None:
    assert applies_to("NVIDIA H100 80GB HBM3")
    assert not applies_to("NVIDIA H200")

    def columns(floors: dict[str, float]) -> list[str]:
        row = Measured("engine", 1, 0.4, 2.5, {"encode": 100.0, "decode": 300.0}, 1.0, floors, {"decode": 30.0})
        report = Report("a GPU", "2026-01-01", {}, {**vars(StageSettings())}, Card(8e14, 3e12), rows=[row])
        return [f"{column.header}: {next(iter(column.cells))}" for column in _table(report).columns]

    assert "share of floor, %: encode 40, decode 80, all 70" in columns({"encode": 40.0, "decode": 240.0})
    assert "share of the card, %: decode 10, all 8" in columns({})
    assert not any("floor" in column for column in columns({}))
