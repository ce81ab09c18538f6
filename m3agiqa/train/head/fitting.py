"""Fits a head: epochs over cached states; the best head is kept, and a killed run goes on."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from m3agiqa.pools import threads
from m3agiqa.report import plots
from m3agiqa.train.evaluation.metrics import krcc, plcc, srcc
from m3agiqa.train.head.cache import StateCache
from m3agiqa.train.head.graphs import TrainingPass
from m3agiqa.train.head.losses import mixture
from m3agiqa.train.head.module import HeadModule, save_head
from m3agiqa.train.head.settings import HeadTraining
from m3agiqa.train.run import Run

#: Conversations validated together, at least.
_VALIDATION_BATCH = 8
#: Factor by which calibration widens or narrows the spread of scores at most: a head that learned nothing stays flat.
_MOST_STRETCH = 2.0
#: Threads that read cached states.
_READERS = 4

#: The numbers of one epoch, a line of metrics.csv.
Epoch = dict[str, float | None]


@dataclass(frozen=True)
class Example:
    """An image that can be learned from."""

    #: Name of its states in the cache.
    state: str
    #: Human score, 0 to 5.
    label: float


class RunFolder(Run):
    """A run's folder with `metrics.csv`, `curves.png`, and the best head as `best.safetensors` and `.ckpt`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.best = path / "best.safetensors"

    def save(
        self, module: HeadModule, optimizer: torch.optim.Optimizer, history: Sequence[Epoch], dtype: torch.dtype
    ) -> None:
        """Keep the last epoch's numbers and state, and its head, calibrated, in `dtype`, if it is the best so far."""
        best = best_epoch(history)
        if best == len(history) - 1:
            named = self.path / f"best-epoch={best:02d}-val_SRCC={history[best]['srcc'] or 0:.2f}.ckpt"
            save_head(_calibrated(module, history[best]), self.best, named, dtype=dtype)
            for old in self.path.glob("best-epoch=*.ckpt"):
                if old != named:
                    old.unlink()
        self.keep_metrics(history)
        columns = {name: [epoch[name] for epoch in history] for name in history[0]}
        plots.save(plots.curves(columns, best), self.path / "curves.png")
        self.keep({"module": module.state_dict(), "optimizer": optimizer.state_dict(), "history": list(history)})


def _calibrated(module: HeadModule, epoch: Epoch) -> HeadModule:
    """A head whose scores are the module's times the epoch's `slope` plus its `offset`, where it has them."""
    slope, offset = epoch.get("slope"), epoch.get("offset")
    if slope is None or offset is None:
        return module
    found = copy.deepcopy(module)
    for name, parameter in found.fc[-1].named_parameters():
        parameter.data = parameter.data * slope + (offset if name == "bias" else 0)
    return found


def best_epoch(history: Sequence[Epoch]) -> int:
    """The first epoch with the highest validation SRCC."""
    values = [-math.inf if epoch["srcc"] is None else epoch["srcc"] for epoch in history]
    return values.index(max(values))


def fit(
    module: HeadModule,
    settings: HeadTraining,
    train: Sequence[Example],
    validation: Sequence[Example],
    cache: StateCache,
    folder: RunFolder,
    state: dict[str, Any] | None,
    report: Callable[[Epoch], None],
) -> list[Epoch]:
    """Train `module` on from `state`, which `folder.resume` gave. Returns every epoch's numbers.

    Every epoch shuffles by a seed of its own, so that a continued run ends like an unbroken one.
    """
    optimizer = torch.optim.AdamW(module.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    loss_of = mixture(settings.loss)
    scores_of = TrainingPass(module, settings.batch_size)
    history: list[Epoch] = []
    if state is not None:
        try:
            module.load_state_dict(state["module"])
            optimizer.load_state_dict(state["optimizer"])
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise folder.damaged() from error
        history = state["history"]
    for epoch in range(len(history), settings.epochs):
        started = time.perf_counter()
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(settings.seed + epoch)).tolist()
        module.train()
        losses = []
        for hidden, lengths, labels in _batches([train[index] for index in order], cache, module, settings.batch_size):
            loss = loss_of(scores_of(hidden, lengths), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append((loss.detach(), len(labels)))
        numbers: Epoch = {
            "epoch": epoch,
            "train_loss": sum(float(loss) * count for loss, count in losses) / len(train),
            **_validate(module, validation, cache, settings),
            "seconds": round(time.perf_counter() - started, 2),
        }
        history.append(numbers)
        folder.save(module, optimizer, history, getattr(torch, settings.dtype))
        report(numbers)
    return history


@torch.no_grad()
def _validate(module: HeadModule, examples: Sequence[Example], cache: StateCache, settings: HeadTraining) -> Epoch:
    module.eval()
    size = max(settings.batch_size, _VALIDATION_BATCH)
    scores = torch.cat(
        [module(hidden, lengths) for hidden, lengths, _ in _batches(examples, cache, module, size)]
    ).cpu()
    labels = torch.tensor([example.label for example in examples])
    loss = float(mixture(settings.loss)(scores, labels))
    # Clamped like predictions.
    x, y = scores.clamp(0, 5).double().numpy(), labels.double().numpy()
    numbers = {"val_loss": loss, "srcc": srcc(x, y), "plcc": plcc(x, y), "krcc": krcc(x, y)}
    if settings.calibrate:
        stretch = labels.std(unbiased=False) / scores.std(unbiased=False)
        slope = float(stretch.clamp(1 / _MOST_STRETCH, _MOST_STRETCH))
        numbers |= {"slope": slope, "offset": float(labels.mean() - slope * scores.mean())}
    return {name: float(value) if np.isfinite(value) else None for name, value in numbers.items()}


def _batches(
    examples: Sequence[Example], cache: StateCache, module: HeadModule, size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """States [rows, time, hidden], lengths [rows] and labels [rows], on the module's device."""
    device = module.lm_head.device
    with threads(_READERS) as pool:
        for start in range(0, len(examples), size):
            batch = examples[start : start + size]
            states = list(pool.map(lambda example: cache.read(example.state), batch))
            yield (
                pad_sequence(states, batch_first=True).to(device),
                torch.tensor([len(each) for each in states], device=device),
                torch.tensor([example.label for example in batch], device=device),
            )
