"""Products in float8 as Triton kernels. Import this only where there is a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: Most tokens whose product is our kernel's, which reads the weights faster; the library's is made for many.
_FEW_TOKENS = 16
#: Outputs and inputs of a pass of the kernel for few tokens, as they measured best.
_BLOCK_OUTPUTS, _BLOCK_INPUTS = 16, 256
_LARGEST = tl.constexpr(448.0)


@triton.jit(do_not_specialize=["tokens"])  # type: ignore[untyped-decorator]
def _thin_product(  # type: ignore[no-untyped-def]
    values,
    own,
    weight,
    scales,
    output,
    tokens,
    inputs: tl.constexpr,
    outputs: tl.constexpr,
    block_tokens: tl.constexpr,
    block_outputs: tl.constexpr,
    block_inputs: tl.constexpr,
):
    row = tl.arange(0, block_tokens)[:, None]
    column = tl.program_id(0) * block_outputs + tl.arange(0, block_outputs)
    sums = tl.zeros([block_tokens, block_outputs], tl.float32)
    for first in range(0, inputs, block_inputs):
        number = first + tl.arange(0, block_inputs)
        inside = (number < inputs)[None, :]
        wanted = (column < outputs)[:, None] & inside
        part = tl.load(weight + column.to(tl.int64)[:, None] * inputs + number[None, :], mask=wanted, other=0.0)
        value = tl.load(values + row * inputs + number[None, :], mask=(row < tokens) & inside, other=0.0)
        # Exact: float16 holds every number of float8.
        sums = tl.dot(value.to(tl.float16), tl.trans(part.to(tl.float16)), sums)
    sums *= tl.load(own + row, mask=row < tokens, other=0.0)
    sums *= tl.load(scales + column, mask=column < outputs, other=0.0)[None, :]
    inside = (row < tokens) & (column < outputs)[None, :]
    tl.store(output + row * outputs + column[None, :], sums.to(output.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _quantise(states, values, scales, width: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    state = tl.load(states + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(state)), 1e-12) / _LARGEST
    tl.store(values + row * width + column, (state / scale).to(values.dtype.element_ty), mask=column < width)
    tl.store(scales + row, scale)


def quantised(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`float8.quantised` as a kernel; states are contiguous."""
    tokens, width = states.shape
    values = torch.empty_like(states, dtype=torch.float8_e4m3fn)
    scales = torch.empty(tokens, device=states.device)
    block = triton.next_power_of_2(width)
    _quantise[(tokens,)](states, values, scales, width=width, block=block, num_warps=max(1, min(16, block // 1024)))
    return values, scales


def product(states: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """`float8.Float8Weight.product` as kernels."""
    tokens, inputs = states.shape
    outputs = len(weight)
    values, own = quantised(states.contiguous())
    if tokens > _FEW_TOKENS:
        scaled = torch._scaled_mm(
            values, weight.T, own[:, None], scales[None, :], out_dtype=states.dtype, use_fast_accum=True
        )
        found: torch.Tensor = scaled
        return found
    output = states.new_empty(tokens, outputs)
    _thin_product[(triton.cdiv(outputs, _BLOCK_OUTPUTS),)](
        values,
        own,
        weight,
        scales,
        output,
        tokens,
        inputs=inputs,
        outputs=outputs,
        block_tokens=_FEW_TOKENS,
        block_outputs=_BLOCK_OUTPUTS,
        block_inputs=_BLOCK_INPUTS,
        num_warps=2,
        num_stages=6,
    )
    return output
