"""Trains a head on a data set: takes its labels, splits it, has the frozen model read its images, and fits the head."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from m3agiqa import hub
from m3agiqa.contract import Aspect, Failure
from m3agiqa.engine.loading import choose_device
from m3agiqa.engine.scoring import Engine
from m3agiqa.errors import CheckpointError, ConfigError, DataError, M3AGIQAError
from m3agiqa.files import read_job
from m3agiqa.jobs import Job
from m3agiqa.model.checkpoints import TensorFiles
from m3agiqa.model.precision import products
from m3agiqa.pools import threads
from m3agiqa.profile import ModelProfile
from m3agiqa.progress import Progress, tracked
from m3agiqa.train.data.dataset import DataSet, Entry
from m3agiqa.train.data.splits import scored
from m3agiqa.train.head.cache import StateCache
from m3agiqa.train.head.fitting import Epoch, Example, RunFolder, fit
from m3agiqa.train.head.module import HeadModule
from m3agiqa.train.head.settings import HeadTraining
from m3agiqa.train.head.states import for_one_aspect, load_frozen, read_states
from m3agiqa.train.run import digest

#: Settings that may change when a run goes on: its length, and its room on the disk.
_CHANGEABLE = ("epochs", "cache_gb")

#: Threads that open images.
_THREADS = 8


@dataclass(frozen=True)
class HeadTask:
    """The head to be trained, and the data set it learns from."""

    data: DataSet
    aspect: Aspect
    #: Column of the human scores.
    label: str
    settings: HeadTraining
    #: Descriptions by image; None has the frozen model write its own.
    descriptions: Mapping[str, str] | None = None
    #: Images that the frozen model reads together.
    batch_size: int = 8


class Frozen:
    """The model that is read and not trained, loaded only when an image is not in the cache."""

    def __init__(self, task: HeadTask, device: str) -> None:
        self.profile = for_one_aspect(ModelProfile.load(task.settings.model), task.aspect)
        self.part = self.profile.aspects[task.aspect]
        self.device = choose_device(device)
        self._resolved = hub.resolve(self.profile)
        self._described = task.descriptions is not None
        self._batch_size = task.batch_size

    def lm_head(self) -> torch.Tensor:
        """The language model's output layer [vocab, hidden], float32."""
        if self._resolved.base is None:
            raise ConfigError(f"model {self.profile.name} has random weights: there is nothing to learn from it")
        files = TensorFiles.in_folder(self._resolved.base, "model")
        return files.read("llm.lm_head.weight", self.device, torch.float32)

    def weights(self) -> dict[str, object]:
        """What reads, whatever it is called and computes in: by digest, and its words."""
        return {key: value for key, value in self.key().items() if key != "dtype"}

    def key(self) -> dict[str, object]:
        """All that states hang on beside image, prompt and a given description."""
        return {
            "weights": self._resolved.revisions,
            "dtype": "float32" if self.device.type == "cpu" else self.profile.dtype,
            "aspect": self.part.model_dump(exclude={"adapter", "head"}),
            "describe": self.profile.describe.model_dump(),
            "descriptions": "given" if self._described else "own",
        }

    def load(self) -> Engine:
        """The loaded model."""
        return load_frozen(self.profile, self._resolved, str(self.device), self._batch_size)


def train_head(
    task: HeadTask,
    run: Path,
    cache_folder: Path,
    device: str,
    *,
    progress: Progress,
    report: Callable[[Epoch], None],
    note: Callable[[str], None],
) -> list[Epoch]:
    """Train a head into the folder `run`, from where a killed run ended there.

    Raises:
        DataError: the data set cannot be learned from.
        OutputError: the folder holds another run, or the disk or the cache is full.
        ConfigError, CheckpointError: as loading a model does.
    """
    frozen = Frozen(task, device)
    folder = RunFolder(run)
    with folder.alone():
        return _train(task, frozen, folder, cache_folder, progress, report, note)


def _train(
    task: HeadTask,
    frozen: Frozen,
    folder: RunFolder,
    cache_folder: Path,
    progress: Progress,
    report: Callable[[Epoch], None],
    note: Callable[[str], None],
) -> list[Epoch]:
    settings = task.settings
    labels = _labels(task, note)
    parts = settings.split.names(task.data)
    parts = {part: _drawn(names, settings) for part, names in {**parts, "val": scored(task.data, parts["val"])}.items()}
    used = {name for names in parts.values() for name in names}
    states, failed = _named(task, {name: labels[name] for name in labels if name in used})
    learned = [
        f"{part} {states[name]} {labels[name]!r}" for part, names in parts.items() for name in names if name in states
    ]
    identity = {
        "data": digest(*learned),
        "weights": digest(repr(frozen.weights())),
        "aspect": task.aspect.value,
        "label": task.label,
        **settings.model_dump(mode="json", exclude={"model"}),
    }
    state = folder.resume(identity, changeable=_CHANGEABLE)
    if state is not None and len(state["history"]) >= settings.epochs:
        note(f"{folder.path} holds this run, finished: nothing is left to do; more epochs would go on from it")
        history: list[Epoch] = state["history"]
        return history
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        module = HeadModule(settings.head, frozen.part.context, frozen.lm_head())
    cache = StateCache(cache_folder, frozen.key(), settings.cache_gb * 1e9)
    failed += _fill(task, states, frozen, cache, progress)
    if failed:
        note(f"{len(failed)} images could not be read and are left out; the first is {failed[0]}")
    examples = {
        part: [Example(states[name], labels[name]) for name in names if name in states] for part, names in parts.items()
    }
    for part in ("train", "val"):
        if not examples[part]:
            raise DataError(f"no image of the part {part} could be read")
    share = f", {settings.share:.0%} of each part" if settings.share < 1 else ""
    note(f"{len(examples['train'])} images to train on, {len(examples['val'])} to validate on{share}")
    folder.begin({**identity, "model": settings.model})
    # States of half precision do not ask for products that are more exact.
    with products(exact=frozen.key()["dtype"] == "float32"):
        return fit(module, settings, examples["train"], examples["val"], cache, folder, state, report)


def _drawn(names: Sequence[str], settings: HeadTraining) -> list[str]:
    """Draw the share of a part's images that is used, in their order."""
    count = max(1, round(settings.share * len(names)))
    drawn = set(random.Random(settings.seed).sample(names, count))
    return [name for name in names if name in drawn]


def _labels(task: HeadTask, note: Callable[[str], None]) -> dict[str, float]:
    labels: dict[str, float] = {}
    for entry in task.data.entries:
        label = entry.label(task.label, task.settings.label_scale)
        if label is not None:
            labels[entry.name] = label
    if outside := [name for name, label in labels.items() if not 0 <= label <= 5]:
        raise DataError(
            f"{len(outside)} scores lie outside 0..5, {outside[0]}'s is {labels[outside[0]]:g}: set label_scale"
        )
    if unlabelled := len({entry.name for entry in task.data.entries}) - len(labels):
        note(f"{unlabelled} images have no number in {task.label} and are left out")
    return labels


def _named(task: HeadTask, labels: Mapping[str, float]) -> tuple[dict[str, str], list[str]]:
    """The name of each image's states in the cache, and a sentence for each image that can have none."""
    entries = {entry.name: entry for entry in task.data.entries if entry.name in labels}
    states: dict[str, str] = {}
    failed: list[str] = []
    with threads(_THREADS) as pool:
        named = pool.map(lambda entry: _state_name(task, entry), entries.values())
        for name, state in zip(entries, named, strict=True):
            if isinstance(state, M3AGIQAError):
                failed.append(f"{name}: {state}")
            else:
                states[name] = state
    return states, failed


def _fill(task: HeadTask, states: dict[str, str], frozen: Frozen, cache: StateCache, progress: Progress) -> list[str]:
    """Fill the cache with every image's states. An image that fails leaves `states`; returns a sentence for each."""
    entries = {entry.name: entry for entry in task.data.entries if entry.name in states}
    missing = [name for name, state in states.items() if state not in cache]
    engine = frozen.load() if missing else None
    failed: list[str] = []
    with threads(_THREADS) as pool:
        starts = range(0, len(missing), task.batch_size)
        for start in tracked(starts, len(starts), progress):
            assert engine is not None
            names = missing[start : start + task.batch_size]
            given = None if task.descriptions is None else [task.descriptions[name] for name in names]
            jobs = list(pool.map(lambda name: _job(task, entries[name]), names))
            for name, found in zip(names, read_states(engine, jobs, given), strict=True):
                if isinstance(found, Failure):
                    failed.append(f"{name}: {found.message}")
                    del states[name]
                else:
                    cache.write(states[name], found)
    return failed


def _job(task: HeadTask, entry: Entry) -> Job:
    return read_job(task.data.image(entry.name), entry.prompt, (task.aspect,))


def _state_name(task: HeadTask, entry: Entry) -> str | M3AGIQAError:
    """The name of an image's states in the cache, or why there are none."""
    if task.descriptions is not None and entry.name not in task.descriptions:
        return CheckpointError("no description")
    try:
        sha256 = _job(task, entry).image.info.sha256
    except M3AGIQAError as error:
        return error
    given = "" if task.descriptions is None else task.descriptions[entry.name]
    return digest(sha256, entry.prompt, given)
