"""Norms as one Triton kernel, which adds to the states before. For GPUs only."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def _norm(  # type: ignore[no-untyped-def]
    states,
    change,
    weight,
    bias,
    output,
    eps,
    change_stride,
    width: tl.constexpr,
    adds: tl.constexpr,
    centred: tl.constexpr,
    block: tl.constexpr,
):
    column = tl.arange(0, block)
    inside = column < width
    row = tl.program_id(0).to(tl.int64)
    at = row * width + column
    state = tl.load(states + at, mask=inside, other=0.0)
    if adds:
        added = tl.load(change + row * change_stride + column, mask=inside, other=0.0)
        state = (state.to(tl.float32) + added.to(tl.float32)).to(state.dtype)
        tl.store(states + at, state, mask=inside)
    normed = state.to(tl.float32)
    if centred:
        normed = tl.where(inside, normed - tl.sum(normed) / width, 0.0)
    normed *= tl.rsqrt(tl.sum(normed * normed) / width + eps)
    normed *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if centred:
        normed += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + at, normed.to(state.dtype), mask=inside)


def norm(
    states: torch.Tensor,
    change: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """`norms.layer_norm_of_sum` as a kernel; without a bias `rms_norm_of_sum`, without a change `rms_norm`.

    All tensors are contiguous, except that the rows of a change may be the beginnings of longer ones.
    """
    width = states.shape[-1]
    output = torch.empty_like(states)
    block = triton.next_power_of_2(width)
    _norm[(states.numel() // width,)](
        states,
        states if change is None else change,
        weight,
        weight if bias is None else bias,
        output,
        eps,
        width if change is None else change.stride(-2),
        width=width,
        adds=change is not None,
        centred=bias is not None,
        block=block,
        num_warps=max(1, min(8, block // 512)),
    )
    return output
