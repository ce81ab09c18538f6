"""The parts of an mLSTM block as Triton kernels, which never store its weights [time, time]. For GPUs only."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK_TIMES, _BLOCK_CHANNELS = 16, 128
# Blocks of float16 and of float32; for heads of 256 both fit the 99 KiB of shared memory that the smaller cards have.
_HALF_BLOCKS = {"block_queries": 64, "block_keys": 32, "num_warps": 8, "num_stages": 2}
_SINGLE_BLOCKS = {"block_queries": 64, "block_keys": 16, "num_warps": 8, "num_stages": 1}


@triton.jit(do_not_specialize=["time"])  # type: ignore[untyped-decorator]
def _conv_silu(  # type: ignore[no-untyped-def]
    states,
    weight,
    bias,
    outputs,
    time,
    channels,
    stride_row,
    stride_time,
    width: tl.constexpr,
    block_times: tl.constexpr,
    block_channels: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block_times + tl.arange(0, block_times)
    channel = tl.program_id(2) * block_channels + tl.arange(0, block_channels)
    inside = channel < channels
    mixed = (
        tl.zeros([block_times, block_channels], tl.float32) + tl.load(bias + channel, mask=inside, other=0.0)[None, :]
    )
    for tap in tl.static_range(width):
        source = at - (width - 1) + tap
        known = ((source >= 0) & (source < time))[:, None] & inside[None, :]
        state = tl.load(
            states + row * stride_row + source[:, None] * stride_time + channel[None, :], mask=known, other=0.0
        )
        mixed += state * tl.load(weight + channel * width + tap, mask=inside, other=0.0)[None, :]
    target = (row * time + at)[:, None] * channels + channel[None, :]
    tl.store(outputs + target, mixed * tl.sigmoid(mixed), mask=(at < time)[:, None] & inside[None, :])


def conv_silu(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """SiLU of the depthwise convolution over time that does not see the future, in `dtype`.

    Args:
        states: [rows, time, channels], float32, channels side by side.
        weight: [channels, 1, width].
        bias: [channels].
    """
    rows, time, channels = states.shape
    outputs = torch.empty(states.shape, dtype=dtype, device=states.device)
    grid = (rows, triton.cdiv(time, _BLOCK_TIMES), triton.cdiv(channels, _BLOCK_CHANNELS))
    _conv_silu[grid](
        states,
        weight,
        bias,
        outputs,
        time,
        channels,
        states.stride(0),
        states.stride(1),
        width=weight.shape[-1],
        block_times=_BLOCK_TIMES,
        block_channels=_BLOCK_CHANNELS,
    )
    return outputs


@triton.jit(do_not_specialize=["time"])  # type: ignore[untyped-decorator]
def _mlstm(  # type: ignore[no-untyped-def]
    queries_keys,
    values,
    decay,
    gate,
    up,
    convolved,
    norm,
    skip,
    outputs,
    time,
    normaliser_eps,
    norm_eps,
    # Known to the compiler, which else would not see that rows start where wide loads may.
    stride_qk: tl.constexpr,
    stride_v: tl.constexpr,
    heads: tl.constexpr,
    dim: tl.constexpr,
    block_queries: tl.constexpr,
    block_keys: tl.constexpr,
):
    head = tl.program_id(0) % heads
    sequence = tl.program_id(0).to(tl.int64)
    start_of_row = sequence // heads * time
    inner: tl.constexpr = heads * dim
    row = tl.program_id(1) * block_queries + tl.arange(0, block_queries)
    column = head * dim + tl.arange(0, dim)
    real = row < time
    query = tl.load(
        queries_keys + (start_of_row + row)[:, None] * stride_qk + column[None, :], mask=real[:, None], other=0.0
    )
    row_decay = tl.load(decay + sequence * time + row, mask=real, other=0.0)
    # The largest log weight so far; the sum of weights and the weighted sum of values, both relative to it.
    stabiliser = tl.full([block_queries], float("-inf"), tl.float32)
    total = tl.zeros([block_queries], tl.float32)
    mixed = tl.zeros([block_queries, dim], tl.float32)
    for first in range(0, tl.minimum((tl.program_id(1) + 1) * block_queries, time), block_keys):
        other = first + tl.arange(0, block_keys)
        known = other < time
        offset = (start_of_row + other)[:, None]
        key = tl.load(queries_keys + offset * stride_qk + inner + column[None, :], mask=known[:, None], other=0.0)
        strength = tl.load(gate + sequence * time + other, mask=known, other=0.0)
        log_weights = row_decay[:, None] + (strength - tl.load(decay + sequence * time + other, mask=known, other=0.0))
        log_weights = tl.where(row[:, None] >= other[None, :], log_weights, float("-inf"))
        larger = tl.maximum(stabiliser, tl.max(log_weights, axis=1))
        kept = tl.exp(stabiliser - larger)
        products = tl.dot(query, tl.trans(key), input_precision="ieee") * dim**-0.5
        weights = products * tl.exp(log_weights - larger[:, None])
        total = total * kept + tl.sum(weights, axis=1)
        value = tl.load(values + offset * stride_v + column[None, :], mask=known[:, None], other=0.0)
        mixed = mixed * kept[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        stabiliser = larger
    mixed /= (tl.maximum(tl.abs(total), tl.exp(-stabiliser)) + normaliser_eps)[:, None]
    mixed -= tl.sum(mixed, axis=1)[:, None] / dim
    mixed *= tl.rsqrt(tl.sum(mixed * mixed, axis=1) / dim + norm_eps)[:, None]
    mixed *= tl.load(norm + column)[None, :]
    offset = (start_of_row + row)[:, None]
    own = tl.load(convolved + offset * inner + column[None, :], mask=real[:, None], other=0.0)
    opened = tl.load(up + offset * 2 * inner + inner + column[None, :], mask=real[:, None], other=0.0)
    mixed = (mixed + tl.load(skip + column)[None, :] * own) * opened * tl.sigmoid(opened)
    tl.store(outputs + offset * inner + column[None, :], mixed, mask=real[:, None])


def mlstm(
    queries_keys: torch.Tensor,
    values: torch.Tensor,
    input_gate: torch.Tensor,
    forget_gate: torch.Tensor,
    up: torch.Tensor,
    convolved: torch.Tensor,
    norm: torch.Tensor,
    skip: torch.Tensor,
    normaliser_eps: float,
    norm_eps: float,
) -> torch.Tensor:
    """`m3agiqa.model.head.mlstm`, normed per head, then the skip and the output gate.

    With inner = heads * dim; `queries_keys`, `values` and `convolved` in float16 or float32, all else float32:

    Args:
        queries_keys: [rows, time, 2 * inner and more], queries first, then keys; the rest is not read.
        values: [rows, time, inner and more].
        input_gate, forget_gate: pre-activations [rows, time, heads].
        up: [rows, time, 2 * inner]; its second half gates the output.
        convolved: [rows, time, inner], for the skip.
        norm: [inner], the norm's weights.
        skip: [inner].
        normaliser_eps: added to the mLSTM's normaliser.
        norm_eps: epsilon of the norm.

    Returns:
        [rows, time, inner].
    """
    rows, time, heads = input_gate.shape
    dim = len(skip) // heads
    decay = torch.nn.functional.logsigmoid(forget_gate).cumsum(dim=1).transpose(1, 2).contiguous()
    outputs = torch.empty(convolved.shape, device=convolved.device)
    blocks = _HALF_BLOCKS if values.dtype == torch.float16 else _SINGLE_BLOCKS
    _mlstm[(rows * heads, triton.cdiv(time, blocks["block_queries"]))](
        queries_keys,
        values,
        decay,
        input_gate.transpose(1, 2).contiguous(),
        up,
        convolved,
        norm,
        skip,
        outputs,
        time,
        normaliser_eps,
        norm_eps,
        stride_qk=queries_keys.stride(1),
        stride_v=values.stride(1),
        heads=heads,
        dim=dim,
        **blocks,
    )
    return outputs
