"""The sLSTM recurrence as one Triton kernel. Import this only where there is a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: Rows of the batch that one program runs.
_BLOCK_ROWS = 16
#: Bytes of shared memory that the kernel takes beside weights held there, as Triton compiles it for a head of 128.
_BESIDE_WEIGHTS = 12_288


@triton.jit(do_not_specialize=["rows", "time"])  # type: ignore[untyped-decorator]
def _slstm(  # type: ignore[no-untyped-def]
    inputs,
    kernel,
    outputs,
    rows,
    time,
    heads: tl.constexpr,
    dim: tl.constexpr,
    block_rows: tl.constexpr,
    exact: tl.constexpr,
):
    head = tl.program_id(0)
    row = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
    real = row < rows
    column = tl.arange(0, dim)
    # [in, out] of each gate.
    weights = kernel + head * 4 * dim * dim + column[:, None] * dim + column[None, :]
    if not exact:
        # Read once: registers hold them.
        to_input = tl.load(weights)
        to_forget = tl.load(weights + dim * dim)
        to_cell = tl.load(weights + 2 * dim * dim)
        to_output = tl.load(weights + 3 * dim * dim)
    hidden = tl.zeros([block_rows, dim], tl.float32)
    cell = tl.zeros([block_rows, dim], tl.float32)
    normaliser = tl.zeros([block_rows, dim], tl.float32)
    stabiliser = tl.full([block_rows, dim], float("-inf"), tl.float32)
    for step in range(time):
        at = ((row.to(tl.int64) * time + step) * 4 * heads + head) * dim
        source = inputs + at[:, None] + column[None, :]
        mask = real[:, None]
        raw_input = tl.load(source, mask=mask, other=0.0)
        raw_forget = tl.load(source + heads * dim, mask=mask, other=0.0)
        raw_cell = tl.load(source + 2 * heads * dim, mask=mask, other=0.0)
        raw_output = tl.load(source + 3 * heads * dim, mask=mask, other=0.0)
        if exact:
            # Read again each step: they are more than shared memory holds, and stay in the second-level cache.
            raw_input += tl.dot(hidden, tl.load(weights), input_precision="ieee")
            raw_forget += tl.dot(hidden, tl.load(weights + dim * dim), input_precision="ieee")
            raw_cell += tl.dot(hidden, tl.load(weights + 2 * dim * dim), input_precision="ieee")
            raw_output += tl.dot(hidden, tl.load(weights + 3 * dim * dim), input_precision="ieee")
        else:
            rounded = hidden.to(tl.float16)
            raw_input += tl.dot(rounded, to_input)
            raw_forget += tl.dot(rounded, to_forget)
            raw_cell += tl.dot(rounded, to_cell)
            raw_output += tl.dot(rounded, to_output)
        # log sigmoid, without overflow
        decayed = stabiliser + tl.minimum(raw_forget, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(raw_forget)))
        stabiliser = tl.maximum(raw_input, decayed)
        gate_in = tl.exp(raw_input - stabiliser)
        gate_keep = tl.exp(decayed - stabiliser)
        cell = gate_keep * cell + gate_in * (2.0 * tl.sigmoid(2.0 * raw_cell) - 1.0)
        normaliser = gate_keep * normaliser + gate_in
        hidden = tl.sigmoid(raw_output) * cell / normaliser
        target = ((row.to(tl.int64) * time + step) * heads + head) * dim
        tl.store(outputs + target[:, None] + column[None, :], hidden, mask=mask)


def slstm(inputs: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, *, exact: bool) -> torch.Tensor:
    """`m3agiqa.model.slstm.slstm` as a kernel.

    Unless `exact`, and where the card has room for the weights, it multiplies in float16: as exact as TF32 for numbers
    far within its range, in half the bytes.
    """
    rows, time, _, heads, dim = inputs.shape
    outputs = inputs.new_empty(rows, time, heads, dim)
    card = torch.cuda.get_device_properties(inputs.device)
    room: int = card.shared_memory_per_block_optin  # type: ignore[attr-defined]
    exact = exact or room < 2 * kernel[0].numel() + _BESIDE_WEIGHTS
    weights = kernel.transpose(2, 3).contiguous()
    _slstm[(heads, triton.cdiv(rows, _BLOCK_ROWS))](
        (inputs + bias).contiguous(),
        weights if exact else weights.half(),
        outputs,
        rows,
        time,
        heads=heads,
        dim=dim,
        block_rows=_BLOCK_ROWS,
        exact=exact,
        num_warps=8,
        num_stages=1,
    )
    return outputs
