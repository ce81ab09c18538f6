"""A small base from nothing: its tower learns to see as an ImageNet network does, its language model to describe.

A picture has four things to teach: the backbone's feature map, which the tower is to give patch by patch; the
backbone's pooled features and smoothed human scores, which the language model's mean state over the picture is to give;
and, late, its conversations. Early these would only be learnt by heart.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from m3agiqa import config
from m3agiqa.errors import RequestInvalid
from m3agiqa.model.random_weights import Shape, train_tokenizer, write_description
from m3agiqa.model.slicing import Grid, Slicing
from m3agiqa.model.tokens import PAD_ID, ConversationTokenizer
from m3agiqa.train import lessons
from m3agiqa.train.backbone import Backbone, Features
from m3agiqa.train.conversations import Conversation
from m3agiqa.train.data import DataSet
from m3agiqa.train.fitting import RunFolder
from m3agiqa.train.metrics import srcc
from m3agiqa.train.smoothing import out_of_fold
from m3agiqa.train.splits import Split
from m3agiqa.train.student import Lesson, Student, Targets, losses, padded
from m3agiqa.train.views import cut, load_pictures, random_views

#: Pictures read at once where nothing is learned.
_AT_ONCE = 32

#: One line of metrics.csv.
Numbers = dict[str, float]


class Pretraining(BaseModel):
    """One of `cfg/train/`: the base's sizes, and how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: Shape
    #: Columns of human scores that are taught, smoothed.
    labels: tuple[str, ...] = Field(min_length=1)
    split: Split = Split()
    #: Side to which pictures are brought when they are loaded, pixels.
    side: int = Field(default=512, ge=32, multiple_of=32)
    #: Width and height of views, multiples of 32; each step takes one of them.
    sizes: tuple[tuple[int, int], ...] = ((512, 512),)
    #: Share of a side that a view shows at least.
    share: float = Field(default=0.75, gt=0, le=1)
    max_slices: int = Field(default=9, ge=1, le=9)
    steps: int = Field(ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    #: Share of the steps over which the rate rises; then it falls along a cosine.
    warmup: float = Field(default=0.02, ge=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0)
    #: Of the running average of the weights, which is what is kept.
    ema: float = Field(default=0.999, ge=0, lt=1)
    #: Share of the steps after which conversations are learned too.
    text_from: float = Field(default=0.7, ge=0, le=1)
    #: Steps between evaluations, each of which keeps a checkpoint.
    evaluate_every: int = Field(default=500, ge=1)
    seed: int = 42

    @field_validator("sizes")
    @classmethod
    def _whole(cls, value: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        if not value or any(side < 32 or side % 32 for size in value for side in size):
            raise ValueError("must be pairs of multiples of 32")
        return value

    @classmethod
    def load(cls, name: str) -> Self:
        """Raises: ConfigError: no such file, or it is wrong."""
        return config.load(config.find("train", name), cls)

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising)))


@dataclass(frozen=True)
class Progress:
    """How a run tells how far it is."""

    pictures: Callable[[Iterable[torch.Tensor], int], Iterable[torch.Tensor]]
    steps: Callable[[range], Iterable[int]]
    report: Callable[[Numbers], None]


class Material:
    """All that is learned from, on the device."""

    def __init__(
        self,
        data: DataSet,
        conversations: Sequence[Conversation],
        settings: Pretraining,
        device: torch.device,
        progress: Progress,
    ) -> None:
        if missing := [label for label in settings.labels if label not in data.columns]:
            raise RequestInvalid(f"{data.folder} has no column {', '.join(missing)}, only {', '.join(data.columns)}")
        entries = {entry.name: entry for entry in data.entries}
        by_name: dict[str, list[Conversation]] = {}
        for item in conversations:
            by_name.setdefault(item.image, []).append(item)
        self.names = [name for name in entries if name in by_name]
        if not self.names:
            raise RequestInvalid(f"no picture of {data.folder} has a conversation")
        self.conversations = [by_name[name] for name in self.names]
        parts = settings.split.names(data)
        number = {name: index for index, name in enumerate(self.names)}
        self.train, self.val = ([number[name] for name in parts[part] if name in number] for part in ("train", "val"))
        if not self.train or not self.val:
            raise RequestInvalid("the split leaves no picture with a conversation for train or val")
        self.pictures = load_pictures(
            data, self.names, settings.side, device, lambda loaded: progress.pictures(loaded, len(self.names))
        )
        scores = [[entries[name].label(label) for label in settings.labels] for name in self.names]
        self.scores = torch.tensor([[math.nan if score is None else score for score in row] for row in scores])
        self.backbone = Backbone(device)
        pooled = torch.cat([self._features(part).pooled for part in self.pictures.split(_AT_ONCE)])
        known = torch.full_like(self.scores, math.nan)
        known[self.train] = self.scores[self.train]
        smooth = out_of_fold(pooled, known, [entries[name].prompt for name in self.names], settings.seed)
        if not bool(smooth.isfinite().all()):
            raise RequestInvalid(
                f"{', '.join(settings.labels)}: too few scores or prompts in the part train to learn from"
            )
        self.ratings = _standardised(smooth, smooth)
        self._pooled = pooled
        maps = self._features(self.pictures[:: max(1, len(self.names) // _AT_ONCE)]).maps
        self._map_scale = maps.mean((0, 2, 3), keepdim=True), maps.std((0, 2, 3), keepdim=True).clamp_min(1e-6)

    def targets(self, views: torch.Tensor, numbers: Sequence[int]) -> Targets:
        """What the student is to read in views of these pictures."""
        features = self._features(views)
        mean, deviation = self._map_scale
        return Targets(
            maps=(features.maps - mean) / deviation,
            pooled=_standardised(features.pooled, self._pooled),
            ratings=self.ratings[list(numbers)],
        )

    def _features(self, views: torch.Tensor) -> Features:
        with torch.autocast(views.device.type, torch.bfloat16, enabled=views.is_cuda):
            return self.backbone(views)


def pretrain(
    data: DataSet,
    conversations: Sequence[Conversation],
    settings: Pretraining,
    run: Path,
    device: torch.device,
    progress: Progress,
) -> Path:
    """Train a base into the folder `run`, continuing what a killed run left there; returns the base's folder.

    Raises:
        RequestInvalid: the data set or the run's folder does not allow it.
    """
    folder = RunFolder(run)
    texts = [turn.content for item in conversations for turn in item.conversations]
    said = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    identity = {"data": str(data.folder.resolve()), "images": str(data.images.resolve()), "conversations": said}
    state = folder.open({**identity, **settings.model_dump(mode="json")})
    base = run / "base"
    shape = settings.shape
    write_description(base, shape, train_tokenizer(texts, shape.vocab))
    tokenizer = ConversationTokenizer.from_file(base / "tokenizer.json", shape.queries)
    material = Material(data, conversations, settings, device, progress)
    trainer = _Trainer(material, tokenizer, settings, device)
    history: list[Numbers] = []
    if state is not None:
        trainer.load_state_dict(state)
        history = state["history"]
    sums: dict[str, torch.Tensor] = {}
    done = int(history[-1]["step"]) if history else 0
    for step in progress.steps(range(done, settings.steps)):
        for name, loss in trainer.step(step).items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + loss
        if (step + 1) % settings.evaluate_every and step + 1 < settings.steps:
            continue
        since, done = step + 1 - done, step + 1
        means = {name: float(loss) / since for name, loss in sums.items()}
        history.append({"step": done, **means, **trainer.validate()})
        sums.clear()
        folder.keep({**trainer.state_dict(), "history": history})
        _write_table(run / "metrics.csv", history)
        progress.report(history[-1])
    weights = base / "model.safetensors"
    save_file(trainer.base(), weights)
    weights.chmod(0o644)  # safetensors keeps what it writes from other users
    return base


class _Trainer:
    def __init__(
        self, material: Material, tokenizer: ConversationTokenizer, settings: Pretraining, device: torch.device
    ) -> None:
        self.material, self.settings, self.device = material, settings, device
        shape = settings.shape.config()
        self.slicing = Slicing.of(shape)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.student = Student(shape, len(settings.labels)).to(device)
        self.average = AveragedModel(self.student, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
        )
        self._tokens = lru_cache(maxsize=None)(
            lambda number, which, grid: lessons.tokens(tokenizer, material.conversations[number][which], grid)
        )

    def step(self, step: int) -> Mapping[str, torch.Tensor]:
        """Learn from one batch, drawn by a generator of the step's own; gives the losses."""
        settings = self.settings
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        drawn = torch.randint(len(self.material.train), (settings.batch_size,), generator=generator)
        numbers = [self.material.train[index] for index in drawn.tolist()]
        size = settings.sizes[int(torch.randint(len(settings.sizes), (), generator=generator))]
        share = settings.share + (1 - settings.share) * float(torch.rand((), generator=generator))
        views = random_views(self.material.pictures[numbers], size, share, generator)
        which = torch.randint(1 << 30, (len(numbers),), generator=generator).tolist()
        lesson = self._lesson(views, numbers, which, text=step >= settings.text_from * settings.steps)
        targets = self.material.targets(views, numbers)
        self.student.train()
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(step)
        with self._autocast():
            read = self.student(lesson)
        found = losses(read, targets)
        self.optimizer.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.student)
        return {name: loss.detach() for name, loss in found.items()}

    @torch.no_grad()
    def validate(self) -> Numbers:
        """SRCC of the averaged student's ratings with the human scores of pictures kept back."""
        self.average.eval()
        read = []
        for start in range(0, len(self.material.val), _AT_ONCE):
            numbers = self.material.val[start : start + _AT_ONCE]
            with self._autocast():
                lesson = self._lesson(self.material.pictures[numbers], numbers, [0] * len(numbers), text=False)
                read.append(self.average(lesson).ratings.float().cpu())
        ratings, scores = torch.cat(read).double().numpy(), self.material.scores[self.material.val].double()
        found = {}
        for column, label in enumerate(self.settings.labels):
            known = scores[:, column].isfinite().numpy()
            found[f"srcc_{label}"] = float(srcc(ratings[known, column], scores[:, column].numpy()[known]))
        return found

    def base(self) -> dict[str, torch.Tensor]:
        """The averaged weights under the published names, float16."""
        average: Student = self.average.module  # type: ignore[assignment]
        return {key: tensor.half().cpu().contiguous() for key, tensor in average.base.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _lesson(self, views: torch.Tensor, numbers: Sequence[int], which: Sequence[int], *, text: bool) -> Lesson:
        """`which` of each picture's conversations, modulo their number; without text they end behind the picture."""
        pieces = cut(views, self.slicing, self.settings.max_slices)
        if text:
            tokens = [self._tokens_of(number, index, pieces.grid) for number, index in zip(numbers, which, strict=True)]
        else:  # up to the picture all conversations are alike
            tokens = [self._tokens_of(numbers[0], 0, pieces.grid)] * len(numbers)
        bounds = tokens[0].image_bounds
        end = None if text else bounds[-1][1] + 1
        return Lesson(
            cut=pieces,
            ids=padded([each.ids[:end] for each in tokens], PAD_ID, self.device),
            labels=padded([each.labels[:end] for each in tokens], lessons.IGNORED, self.device),
            places=torch.cat([torch.arange(*bound) for bound in bounds]).to(self.device),
        )

    def _tokens_of(self, number: int, which: int, grid: Grid) -> lessons.Tokens:
        found: lessons.Tokens = self._tokens(number, which % len(self.material.conversations[number]), grid)
        return found

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


def _standardised(values: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return (values - by.mean(0)) / by.std(0).clamp_min(1e-6)


def _write_table(path: Path, history: Sequence[Numbers]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
