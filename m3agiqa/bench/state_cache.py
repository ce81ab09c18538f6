"""Measures how much time training saves by reading each image once, not once an epoch as the original does."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from m3agiqa import hub
from m3agiqa.contract import Aspect
from m3agiqa.engine.loading import choose_device
from m3agiqa.engine.scoring import Engine
from m3agiqa.images import open_image
from m3agiqa.jobs import Job
from m3agiqa.model.checkpoints import TensorFiles
from m3agiqa.model.precision import products
from m3agiqa.profile import ModelProfile
from m3agiqa.train.head.cache import StateCache
from m3agiqa.train.head.fitting import Epoch, Example, RunFolder, fit
from m3agiqa.train.head.module import HeadModule
from m3agiqa.train.head.settings import HeadTraining
from m3agiqa.train.head.states import for_one_aspect, load_frozen, read_states

_SIDE = 512
#: Share of the images to validate on.
_VALIDATION_SHARE = 0.2
#: Relative difference of losses that rounding explains: a device may add in another order each time.
_ROUNDING = 1e-3
_DESCRIPTION = (
    "The image is of fair quality. Edges are soft, the lighting is flat, and some detail is lost in the shadows."
)


@dataclass(frozen=True)
class CacheTimes:
    """Seconds of the same training with the cache and without it, loading excluded."""

    device: str
    threads: int
    model: str
    images: int
    epochs: int
    from_cache_s: float
    anew_s: float
    #: Whether both ways gave the same losses, up to rounding.
    same: bool

    @property
    def ratio(self) -> float:
        """How many times as fast training is from the cache."""
        return self.anew_s / self.from_cache_s


def run(
    settings: HeadTraining, device_name: str, *, images: int, batch_size: int, note: Callable[[str], None]
) -> CacheTimes:
    """Train a head on noise images with given descriptions, once from the cache and once reading anew.

    Args:
        settings: the model, the head and its schedule.
        device_name: as `choose_device` takes it.
        images: number of images, each 512 x 512.
        batch_size: images that the frozen model reads together.
        note: called with the name of each stage as it begins.

    Raises:
        RequestInvalid, ConfigError, CheckpointError: as `train_head`.
    """
    profile = for_one_aspect(ModelProfile.load(settings.model), Aspect.QUALITY)
    resolved, device = hub.resolve(profile), choose_device(device_name)
    engine = load_frozen(profile, resolved, str(device), batch_size)
    assert resolved.base is not None, "the engine has loaded it"
    training = _Training(
        settings=settings,
        context=profile.aspects[Aspect.QUALITY].context,
        lm_head=TensorFiles.in_folder(resolved.base, "model").read("llm.lm_head.weight", device, torch.float32),
        engine=engine,
        jobs=[_noise(seed) for seed in range(images)],
        batch_size=batch_size,
    )
    with tempfile.TemporaryDirectory() as warm_up:
        training.read(StateCache(Path(warm_up), {}, float("inf")))
    note(f"{settings.epochs} epochs from the cache")
    from_cache_s, history = training.run(anew=False)
    note(f"{settings.epochs} epochs, the images read anew in each")
    anew_s, again = training.run(anew=True)
    return CacheTimes(
        device=str(device),
        threads=torch.get_num_threads(),
        model=settings.model,
        images=images,
        epochs=settings.epochs,
        from_cache_s=from_cache_s,
        anew_s=anew_s,
        same=_same_losses(history, again),
    )


@dataclass(frozen=True)
class _Training:
    """One training run, repeated with the cache and without it."""

    settings: HeadTraining
    context: int
    lm_head: torch.Tensor
    engine: Engine
    jobs: Sequence[Job]
    batch_size: int

    def read(self, cache: StateCache) -> None:
        """Read every image and write its states to the cache, replacing those already there."""
        for start in range(0, len(self.jobs), self.batch_size):
            part = self.jobs[start : start + self.batch_size]
            for number, states in enumerate(read_states(self.engine, part, [_DESCRIPTION] * len(part)), start=start):
                assert isinstance(states, torch.Tensor), states
                cache.write(str(number), states)

    def run(self, *, anew: bool) -> tuple[float, list[Epoch]]:
        """Train; return the seconds and every epoch's numbers. `anew` reads the images for each epoch, not once."""
        settings, images = self.settings, len(self.jobs)
        examples = [Example(str(number), label=5 * number / images) for number in range(images)]
        kept_back = max(2, round(_VALIDATION_SHARE * images))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            torch.manual_seed(settings.seed)
            module = HeadModule(settings.head, self.context, self.lm_head)
            cache = StateCache(folder / "cache", {}, float("inf"))
            started = time.perf_counter()
            self.read(cache)
            with products(exact=self.engine.dtype == "float32"):
                history = fit(
                    module,
                    settings,
                    examples[kept_back:],
                    examples[:kept_back],
                    cache,
                    RunFolder(folder),
                    None,
                    lambda epoch: self.read(cache) if anew and epoch["epoch"] != settings.epochs - 1 else None,
                )
            return time.perf_counter() - started, history


def _same_losses(history: Sequence[Epoch], again: Sequence[Epoch]) -> bool:
    one, other = (np.array([epoch["train_loss"] for epoch in epochs], float) for epochs in (history, again))
    return len(one) == len(other) and np.allclose(one, other, rtol=_ROUNDING, atol=0)


def _noise(seed: int) -> Job:
    noise = np.random.default_rng(seed).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return Job(open_image(buffer.getvalue()), "a cat in the snow", (Aspect.QUALITY,))
