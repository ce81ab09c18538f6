"""The least time that each stage of a batch can take: with torch's own products on one H100 80GB, and on any card.

Floating-point operations are counted from the shapes and the batch's work, and divided by rates measured on a GPU. A
product of [m, k] and [k, n] counts 2 m k n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from m3agiqa.bench.card import Card
from m3agiqa.bench.workload import Work
from m3agiqa.contract import Aspect
from m3agiqa.model.language import LlamaShape
from m3agiqa.model.shape import Shape
from m3agiqa.model.slicing import Slicing

#: Measured: FLOP/s of prefill at the published shapes, three adapters in a batch. The data sheet's 989e12 is never met.
FLOPS = 555e12
#: Rate of the heads' products, as a part of float16's. Some run in TF32, at half of it; all are counted at that rate.
HEAD_SHARE = 1 / 2
#: Measured: milliseconds of one captured decode step, by rows (images times aspects times beams).
STEP_MS = ((1, 7.5), (9, 8.1), (72, 9.0), (288, 13.9), (576, 23.4))

#: Bytes of a number in half precision.
_HALF = 2


def applies_to(machine: str) -> bool:
    """Whether these floors hold for a GPU of this name, as torch gives it."""
    return "H100" in machine


def floors_ms(work: Work, shape: Shape, beams: int) -> dict[str, float]:
    """Least milliseconds of each stage of a batch on an H100, with torch's own products at the published shapes."""
    return _stages_ms(work, shape, FLOPS, decode_ms(work.generated, beams))


def card_floors_ms(work: Work, shape: Shape, beams: int, card: Card) -> dict[str, float]:
    """Least milliseconds of each stage of a batch on a card, whatever the kernels; weights are of two bytes."""
    floors = _stages_ms(work, shape, card.flops, card_decode_ms(work, shape, beams, card))
    weights_ms = _step_bytes(shape) / card.bytes_per_s * 1000
    return floors | {stage: max(floors[stage], weights_ms) for stage in ("prefill", "rate")}


def card_decode_ms(work: Work, shape: Shape, beams: int, card: Card) -> float:
    """Least milliseconds to write the descriptions on a card.

    In each step, the products take their operations or the reading of their weights, whichever is longer. Attention
    waits for them, and reads each prompt and the past of one of its beams at least.
    """
    llama = LlamaShape.from_config(shape.config())
    token_bytes = 2 * _HALF * llama.layers * llama.kv_heads * llama.head_dim
    beam_flops = language_flops(shape, 0, 1) + _vocabulary_flops(shape)
    seconds = 0.0
    for step in range(1, max(work.generated, default=0)):
        going = [prompt + step for prompt, count in zip(work.prompts, work.generated, strict=True) if count > step]
        products = max(len(going) * beams * beam_flops / card.flops, _step_bytes(shape) / card.bytes_per_s)
        seconds += products + sum(going) * token_bytes / card.bytes_per_s
    return seconds * 1000


def _stages_ms(work: Work, shape: Shape, flops: float, written_ms: float) -> dict[str, float]:
    prefill = sum(language_flops(shape, 0, tokens) + _vocabulary_flops(shape) for tokens in work.prompts)
    read = sum(language_flops(shape, known, new) for known, new in work.read)
    heads = sum(head_flops(shape, known + new) for known, new in work.read)
    again = _all_vision_flops(shape, work.encoded_again)
    return {
        "encode": _all_vision_flops(shape, work.encoded) / flops * 1000,
        "prefill": prefill / flops * 1000,
        "decode": written_ms,
        "rate": (again + read + heads / HEAD_SHARE) / flops * 1000,
    }


def decode_ms(generated: Sequence[int], beams: int) -> float:
    """Least milliseconds to write descriptions of these lengths in tokens; prefill gives each first token."""
    return sum(
        step_ms(beams * sum(count > step for count in generated)) for step in range(1, max(generated, default=0))
    )


def step_ms(rows: int) -> float:
    """Milliseconds of one decode step, interpolated linearly between measurements and extrapolated beyond the last."""
    lines = list(pairwise(STEP_MS))
    (fewer, less), (more, most) = next((line for line in lines if rows <= line[1][0]), lines[-1])
    return less + (most - less) * (max(rows, 1) - fewer) / (more - fewer)


def language_flops(shape: Shape, known: int, new: int) -> float:
    """Floating-point operations of reading `new` tokens behind `known` ones: the layers' products with their low-rank
    changes, and attention, in which each token meets itself and those before it.
    """
    return 2 * new * (_weights(shape) + _changes(shape)) + 4 * shape.layers * shape.hidden * _pairs(known, new)


def vision_flops(shape: Shape, patches: int) -> float:
    """Floating-point operations of one slice: patch embedding, layers with attention from every patch to every patch,
    resampler.
    """
    width, hidden, queries = shape.vision_hidden, shape.hidden, shape.queries
    embedding = 2 * patches * 3 * Slicing.from_config(shape.config()).patch ** 2 * width
    layer = 2 * patches * (4 * width**2 + 2 * width * shape.vision_ffn) + 4 * patches**2 * width
    keys_and_values = 2 * patches * (width * hidden + 2 * hidden**2)
    resampler = keys_and_values + 4 * queries * patches * hidden + 2 * queries * 2 * hidden**2
    return embedding + shape.vision_layers * layer + resampler


def head_flops(shape: Shape, tokens: int) -> float:
    """Floating-point operations of one conversation: projection, three mLSTM blocks with attention-like products, one
    sLSTM block.
    """
    width, inner, ffn = shape.head_width, 2 * shape.head_width, shape.head_ffn
    mlstm = 2 * tokens * (width * 2 * inner + 3 * inner * 4 + 3 * inner * 8 + inner * width)
    mlstm += 4 * inner * _pairs(0, tokens)
    slstm = 2 * tokens * (2 * width**2 + 3 * width * ffn)  # gates and recurrence are block-diagonal in four heads
    return 2 * tokens * shape.hidden * width + 3 * mlstm + slstm


def _weights(shape: Shape) -> int:
    """Weights of the layers' products."""
    tensors = LlamaShape.from_config(shape.config()).tensors()
    return sum(math.prod(size) for name, size in tensors.items() if ".layers." in name and len(size) == 2)


def _changes(shape: Shape) -> int:
    """Weights of one adapter's low-rank changes."""
    llama = LlamaShape.from_config(shape.config())
    kv = llama.kv_heads * llama.head_dim
    return shape.layers * shape.rank * (4 * shape.hidden + 2 * (shape.hidden + kv))


def _step_bytes(shape: Shape) -> float:
    """Bytes of the weights that one token of every adapter takes, the vocabulary's among them."""
    return _HALF * (_weights(shape) + len(Aspect) * _changes(shape) + shape.vocab * shape.hidden)


def _vocabulary_flops(shape: Shape) -> float:
    return 2 * shape.vocab * shape.hidden


def _all_vision_flops(shape: Shape, encoded: Iterable[tuple[int, int]]) -> float:
    return sum(slices * vision_flops(shape, patches) for slices, patches in encoded)


def _pairs(known: int, new: int) -> int:
    """Pairs of a new token and one that it sees."""
    return known * new + new * (new + 1) // 2
