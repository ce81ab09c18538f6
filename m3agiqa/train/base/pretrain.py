"""A small base from nothing: its tower learns to see as an ImageNet network does, then its language model to describe.

The tower learns, from views of images, the backbone's local features patch by patch, its pooled features, and
smoothed human scores. Then it stays as it is, and what lies behind it learns to tell the same pooled features and
scores by its mean state over an image, and the image's conversations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from safetensors.torch import save
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from m3agiqa import config
from m3agiqa.errors import DataError
from m3agiqa.files import image_digest
from m3agiqa.model.shape import Shape
from m3agiqa.model.slicing import Slicing
from m3agiqa.model.tokens import PAD_ID, ConversationTokenizer
from m3agiqa.model.vision import normalise
from m3agiqa.model.writing import train_tokenizer, write_description
from m3agiqa.outputs import make_folder, write
from m3agiqa.train.base.backbone import MAP_CHANNELS, MAP_STRIDE, Backbone
from m3agiqa.train.base.smoothing import out_of_fold
from m3agiqa.train.base.spectrum import embed_spectrum
from m3agiqa.train.base.student import Lesson, Student, Targets, map_loss, padded, readout_losses, text_loss
from m3agiqa.train.base.views import Cut, Places, cut, load_images
from m3agiqa.train.data import lessons
from m3agiqa.train.data.conversations import ConversationRecord
from m3agiqa.train.data.dataset import DataSet
from m3agiqa.train.data.splits import Split
from m3agiqa.train.evaluation.metrics import srcc
from m3agiqa.train.run import Run, digest

#: Images read at once where nothing is learned.
_AT_ONCE = 32

#: One line of metrics.csv.
Numbers = dict[str, float]


class Pretraining(BaseModel):
    """One of `cfg/train/`: the base's sizes, and how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shape: Shape
    #: Columns of human scores that are taught, smoothed.
    labels: tuple[str, ...] = Field(min_length=1)
    split: Split = Split()
    #: Side to which images are brought when they are loaded, pixels.
    side: int = Field(default=512, ge=32, multiple_of=32)
    #: Width and height of views, multiples of 32 and at most `side`; each step takes one of them.
    sizes: tuple[tuple[int, int], ...] = ((512, 512),)
    max_slices: int = Field(default=9, ge=1, le=9)
    #: Steps that teach the tower, and images of one.
    steps: int = Field(ge=1)
    batch_size: int = Field(default=16, ge=1)
    #: Steps behind them that teach the language model and the resampler, and images of one.
    text_steps: int = Field(ge=1)
    text_batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    #: Share of either kind's steps over which the rate rises; then it falls along a cosine.
    warmup: float = Field(default=0.02, ge=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0)
    #: Decay of the running average of the weights, which is what is kept.
    ema: float = Field(default=0.99, ge=0, lt=1)
    #: Compute in bfloat16 where that is safe; a CPU without instructions for it is slower that way.
    autocast: bool = True
    #: Steps between evaluations, each of which keeps a checkpoint.
    evaluate_every: int = Field(default=500, ge=1)
    seed: int = Field(default=42, ge=0, lt=2**32)

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

    @model_validator(mode="after")
    def _views_fit(self) -> Self:
        if any(side > self.side for size in self.sizes for side in size):
            raise ValueError(f"sizes must not exceed side, {self.side}")
        return self

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0; those that teach the language model come last."""
        steps = self.steps
        if step >= self.steps:
            step, steps = step - self.steps, self.text_steps
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@dataclass(frozen=True)
class Progress:
    """How a run tells how far it is."""

    images: Callable[[Iterable[Any], int], Iterable[Any]]
    steps: Callable[[range], Iterable[int]]
    report: Callable[[Numbers], None]
    note: Callable[[str], None]


class Material:
    """All that is learned from, on the device."""

    def __init__(
        self,
        data: DataSet,
        conversations: Sequence[ConversationRecord],
        settings: Pretraining,
        device: torch.device,
        progress: Progress,
    ) -> None:
        if missing := [label for label in settings.labels if label not in data.columns]:
            raise DataError(f"{data.folder} has no column {', '.join(missing)}, only {', '.join(data.columns)}")
        entries = {entry.name: entry for entry in data.entries}
        by_name: dict[str, list[ConversationRecord]] = {}
        for item in conversations:
            by_name.setdefault(item.image, []).append(item)
        self.names = [name for name in entries if name in by_name]
        if not self.names:
            raise DataError(f"no image of {data.folder} has a conversation")
        self.conversations = [by_name[name] for name in self.names]
        split = settings.split.names(data)
        number = {name: index for index, name in enumerate(self.names)}
        self.train, self.val = ([number[name] for name in split[part] if name in number] for part in ("train", "val"))
        if not self.train or not self.val:
            raise DataError("the split leaves no image with a conversation for train or val")
        self.images = load_images(
            data, self.names, settings.side, device, lambda loaded: progress.images(loaded, len(self.names))
        )
        scores = [[entries[name].label(label) for label in settings.labels] for name in self.names]
        self.scores = torch.tensor([[math.nan if score is None else score for score in row] for row in scores])
        pooled: list[torch.Tensor] = []
        # Made whole at once: the maps are what takes the memory.
        places = settings.side // MAP_STRIDE
        self.maps = torch.empty(len(self.names), MAP_CHANNELS, places, places, dtype=torch.float16, device=device)
        backbone = Backbone(device)
        parts = self.images.split(_AT_ONCE), self.maps.split(_AT_ONCE)
        for part, maps in progress.images(zip(*parts, strict=True), len(parts[0])):
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.autocast):
                features = backbone(part)
            pooled.append(features.pooled)
            maps.copy_(features.maps)
        self.pooled = torch.cat(pooled)
        known = torch.full_like(self.scores, math.nan)
        known[self.train] = self.scores[self.train]
        smooth = out_of_fold(self.pooled, known, [entries[name].prompt for name in self.names], settings.seed)
        if not bool(smooth.isfinite().all()):
            raise DataError(f"{', '.join(settings.labels)}: too few scores or prompts in the part train to learn from")
        self.pooled, self.ratings = _standardised(self.pooled), _standardised(smooth)
        some = self.maps[:: max(1, len(self.names) // _AT_ONCE)].float()
        self._map_scale = some.mean((0, 2, 3), keepdim=True), some.std((0, 2, 3), keepdim=True).clamp_min(1e-6)

    def targets(self, numbers: Sequence[int]) -> Targets:
        """What these images, and views of them, are to be read as."""
        return Targets(pooled=self.pooled[list(numbers)], ratings=self.ratings[list(numbers)])

    def map_targets(self, maps: torch.Tensor) -> torch.Tensor:
        """Views of the backbone's maps, standardised."""
        mean, deviation = self._map_scale
        return (maps.float() - mean) / deviation


def pretrain(
    data: DataSet,
    conversations: Sequence[ConversationRecord],
    settings: Pretraining,
    run: Path,
    device: torch.device,
    progress: Progress,
) -> Path:
    """Train a base into the folder `run`, continuing what a killed run left there; returns the base's folder.

    Raises:
        DataError: the data set or the run's folder does not allow it.
    """
    folder = Run(run)
    with folder.alone():
        return _pretrain(data, conversations, settings, folder, device, progress)


def _pretrain(
    data: DataSet,
    conversations: Sequence[ConversationRecord],
    settings: Pretraining,
    folder: Run,
    device: torch.device,
    progress: Progress,
) -> Path:
    texts = [turn.content for item in conversations for turn in item.conversations]
    identity = {
        "data": _learned_from(data, conversations, settings),
        "conversations": digest(*(part for item in conversations for part in (item.image, item.model_dump_json()))),
        **settings.model_dump(mode="json"),
    }
    state = folder.resume(identity)
    base = folder.path / "base"
    weights = base / "model.safetensors"
    steps = settings.steps + settings.text_steps
    history: list[Numbers] = [] if state is None else state["history"]
    done = int(history[-1]["step"]) if history else 0
    if done >= steps and weights.exists():
        progress.note(f"{folder.path} holds this run, finished: nothing is left to do")
        return base
    shape = settings.shape
    material = Material(data, conversations, settings, device, progress)
    folder.begin(identity)
    make_folder(base)
    write_description(base, shape, train_tokenizer(texts, shape.vocab))
    tokenizer = ConversationTokenizer.from_file(base / "tokenizer.json", shape.queries)
    trainer = _Trainer(material, tokenizer, settings, device)
    if state is not None:
        try:
            trainer.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise folder.damaged() from error
    sums: dict[str, torch.Tensor] = {}
    for step in progress.steps(range(done, steps)):
        for name, loss in trainer.step(step).items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + loss
        if (step + 1) % settings.evaluate_every and step + 1 not in (settings.steps, steps):
            continue
        since, done = step + 1 - done, step + 1
        means = {name: float(loss) / since for name, loss in sums.items()}
        history.append({"step": done, **means, **trainer.validate(step)})
        sums.clear()
        folder.keep({**trainer.state_dict(), "history": history})
        folder.keep_metrics(history)
        progress.report(history[-1])
    write(weights, save(trainer.base()))
    return base


def _learned_from(data: DataSet, conversations: Sequence[ConversationRecord], settings: Pretraining) -> str:
    """A digest of the images that are talked about, their prompts and their scores."""
    named = {item.image for item in conversations}
    parts = [
        f"{entry.name} {entry.prompt} {image_digest(data.image(entry.name))} "
        + repr([entry.label(label) for label in settings.labels])
        for entry in data.entries
        if entry.name in named
    ]
    return digest(*parts)


class _Trainer:
    def __init__(
        self, material: Material, tokenizer: ConversationTokenizer, settings: Pretraining, device: torch.device
    ) -> None:
        self.material, self.settings, self.device = material, settings, device
        shape = settings.shape.config()
        self.slicing = Slicing.from_config(shape)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.student = Student(shape, len(settings.labels)).to(device)
        some = material.images[material.train[:: max(1, len(material.train) // _AT_ONCE)]]
        embed_spectrum(self.student.base.vpm.embeddings.patch_embedding, normalise(some))
        self.average = AveragedModel(self.student, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
        )
        self._tokens = lru_cache(maxsize=None)(
            lambda number, which, grid: lessons.tokens(tokenizer, material.conversations[number][which], grid)
        )
        #: How every whole image is cut, all being of one size.
        self._whole = self._cut(material.images[:1])
        #: Features of the images to train on, once the tower stays as it is.
        self._features: dict[int, torch.Tensor] = {}

    def step(self, step: int) -> Mapping[str, torch.Tensor]:
        """Learn from one batch, drawn by a generator of the step's own; gives the losses."""
        settings = self.settings
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        text = step >= settings.steps
        if step == settings.steps:
            # The tower that stays is the averaged one.
            self.student.load_state_dict(self.average.module.state_dict())
        count = settings.text_batch_size if text else settings.batch_size
        drawn = torch.randint(len(self.material.train), (count,), generator=generator)
        numbers = [self.material.train[index] for index in drawn.tolist()]
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(step)
        self.student.train()
        found = self._converse(numbers, generator) if text else self._look(numbers, generator)
        self.optimizer.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.student)
        return {name: loss.detach() for name, loss in found.items()}

    def _look(self, numbers: Sequence[int], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Losses of what the tower sees in views of images."""
        material, settings = self.material, self.settings
        width, height = settings.sizes[int(torch.randint(len(settings.sizes), (), generator=generator))]
        room = ((settings.side - height) // MAP_STRIDE, (settings.side - width) // MAP_STRIDE)
        places = Places.random(len(numbers), room, generator)
        pieces = self._cut(places.take(material.images[numbers], (width, height), MAP_STRIDE))
        maps = places.take(material.maps[numbers], (width // MAP_STRIDE, height // MAP_STRIDE), 1)
        with self._autocast():
            seen = self.student.see(pieces)
        pooled, rating = readout_losses(seen, material.targets(numbers))
        nothing = torch.zeros((), device=self.device)
        return {
            "map": map_loss(seen.maps, material.map_targets(maps)),
            "pooled": pooled,
            "rating": rating,
            "text": nothing,
        }

    def _converse(self, numbers: Sequence[int], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Losses of what is told of whole images."""
        which = torch.randint(1 << 30, (len(numbers),), generator=generator).tolist()
        if not self._features:
            seen = self._see(self.student, self.material.train)
            self._features = {number: each for number, (each, _) in zip(self.material.train, seen, strict=True)}
        features = torch.stack([self._features[number] for number in numbers])
        with self._autocast():
            told = self.student.tell(features, self._lesson(numbers, which))
        pooled, rating = readout_losses(told, self.material.targets(numbers))
        nothing = torch.zeros((), device=self.device)
        return {"map": nothing, "pooled": pooled, "rating": rating, "text": text_loss(told)}

    @torch.no_grad()
    def validate(self, step: int) -> Numbers:
        """SRCC of the averaged student's ratings, of who learned last, with the human scores of images kept back."""
        average: Student = self.average.module  # type: ignore[assignment]
        average.eval()
        val, read = self.material.val, []
        for number, (features, seen) in zip(val, self._see(average, val), strict=True):
            if step < self.settings.steps:
                read.append(seen)
                continue
            with self._autocast():
                read.append(average.tell(features[None], self._lesson([number], [0])).ratings[0].float())
        ratings, scores = torch.stack(read).double().cpu().numpy(), self.material.scores[val].double()
        found = {}
        for column, label in enumerate(self.settings.labels):
            known = scores[:, column].isfinite().numpy()
            found[f"srcc_{label}"] = float(srcc(ratings[known, column], scores[:, column].numpy()[known]))
        return found

    @torch.no_grad()
    def _see(self, student: Student, numbers: Sequence[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Features [1 + slices, Lmax, vision hidden], float16, and ratings of whole images."""
        for start in range(0, len(numbers), _AT_ONCE):
            pieces = self._cut(self.material.images[list(numbers[start : start + _AT_ONCE])])
            with self._autocast():
                seen = student.see(pieces)
            yield from zip(seen.features.half(), seen.ratings.float(), strict=True)

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

    def _cut(self, views: torch.Tensor) -> Cut:
        return cut(views, self.slicing, self.settings.max_slices)

    def _lesson(self, numbers: Sequence[int], which: Sequence[int]) -> Lesson:
        """`which` of each whole image's conversations, modulo their number."""
        counts = [len(self.material.conversations[number]) for number in numbers]
        chosen = zip(numbers, which, counts, strict=True)
        tokens = [self._tokens(number, index % count, self._whole.grid) for number, index, count in chosen]
        return Lesson(
            sizes=self._whole.sizes,
            ids=padded([each.ids for each in tokens], PAD_ID, self.device),
            labels=padded([each.labels for each in tokens], lessons.IGNORED, self.device),
            places=torch.cat([torch.arange(*bound) for bound in tokens[0].image_bounds]).to(self.device),
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.autocast)


def _standardised(values: torch.Tensor) -> torch.Tensor:
    return (values - values.mean(0)) / values.std(0).clamp_min(1e-6)
