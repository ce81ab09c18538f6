"""Measures the xLSTM head at the published shape: the whole head, and its sLSTM's recurrence alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from m3agiqa.bench.random_weights import head_tensors
from m3agiqa.engine.clock import Clock
from m3agiqa.model.head import Head
from m3agiqa.model.shape import Shape
from m3agiqa.model.slstm import recurrent_weights, slstm

_SLSTM = "xlstm_pooler.xlstm_stack.blocks.1.xlstm.slstm_cell."


@dataclass(frozen=True)
class HeadTimes:
    """Median times over the repeats, milliseconds."""

    device: str
    threads: int
    rows: int
    tokens: int
    head_ms: float
    recurrence_ms: float
    #: Time of the same recurrence in the xlstm package's vanilla loop; None on a GPU.
    package_ms: float | None
    #: Largest difference between the two loops' hidden states.
    difference: float | None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the package's loop our recurrence is."""
        return None if self.package_ms is None else self.package_ms / self.recurrence_ms


@torch.inference_mode()
def run(
    device: torch.device, *, rows: int = 96, tokens: int = 600, repeats: int = 5, shape: Shape | None = None
) -> HeadTimes:
    """Measure a head with random weights on random states.

    Args:
        device: where to run; a CPU also runs the xlstm package's loop, in turns with ours.
        rows: conversations.
        tokens: tokens of each conversation.
        repeats: counted runs, after one warm-up run.
        shape: sizes; by default the published ones, but a vocabulary of 512, which a fused head never sees.
    """
    shape = shape or Shape(vocab=512)
    tensors = head_tensors(shape, seed=0)
    state = {name.removeprefix("model."): tensors.read(name, device, torch.float32) for name in tensors.names()}
    draw = torch.Generator(device).manual_seed(0)
    lm_head = torch.randn(shape.vocab, shape.hidden, generator=draw, device=device) / shape.hidden**0.5
    head = Head(state, lm_head)
    hidden = torch.randn(rows, tokens, shape.hidden, generator=draw, device=device)
    lengths = torch.full((rows,), tokens, device=device)
    kernel, bias = recurrent_weights(state[_SLSTM + "_recurrent_kernel_"], state[_SLSTM + "_bias_"])
    heads, _, dim, _ = kernel.shape
    gates = torch.randn(rows, tokens, 4, heads, dim, generator=draw, device=device)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "head": lambda: head(hidden, lengths, exact=False),
        "recurrence": lambda: slstm(gates, kernel, bias, exact=False),
    }
    if device.type == "cpu":
        package = _package_loop(kernel, bias)
        ways["package"] = lambda: package(gates)
    results, times_ms = _measure(ways, device, repeats)
    difference = (results["package"] - results["recurrence"]).abs().max() if "package" in results else None
    return HeadTimes(
        device=str(device),
        threads=torch.get_num_threads(),
        rows=rows,
        tokens=tokens,
        head_ms=times_ms["head"],
        recurrence_ms=times_ms["recurrence"],
        package_ms=times_ms.get("package"),
        difference=None if difference is None else float(difference),
    )


def _measure(
    ways: dict[str, Callable[[], torch.Tensor]], device: torch.device, repeats: int
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Results and median milliseconds of each way; every round runs all ways, so that noise meets them alike."""
    results = {name: way() for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            clock = Clock(device)
            way()
            clock.mark(name)
            times[name].append(clock.times_ms()[name])
    return results, {name: median(each) for name, each in times.items()}


def _package_loop(kernel: torch.Tensor, bias: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The xlstm package's own loop, from gates [rows, time, 4, heads, dim] to states [rows, time, heads, dim]."""
    from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

    heads, _, dim, _ = kernel.shape
    cell = sLSTMCell(sLSTMCellConfig(hidden_size=heads * dim, num_heads=heads, backend="vanilla", dtype="float32"))
    cell._recurrent_kernel_.copy_(kernel.reshape(cell._recurrent_kernel_.shape))
    cell._bias_.copy_(bias.reshape(cell._bias_.shape))

    def loop(gates: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = cell(gates.flatten(2))[0]
        return states.transpose(1, 2)

    return loop
