"""The teacher of a small base: the backbone, tuned end to end to human scores, and what it says of any view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import smooth_l1_loss

from m3agiqa.outputs import make_folder
from m3agiqa.train.base.average import Average
from m3agiqa.train.base.backbone import Backbone, Features
from m3agiqa.train.base.material import AT_ONCE, Material, Numbers, Progress
from m3agiqa.train.base.settings import Pretraining, cosine
from m3agiqa.train.base.views import random_views
from m3agiqa.train.head.losses import ranknet
from m3agiqa.train.run import Run

#: Least deviation by which a feature is divided, as a share of the features' mean deviation: what hardly ever moves on
#: whole images may move much on an altered view.
_LEAST = 0.05
#: Bound of standardised features, on either side of 0.
_MOST = 6.0


class Teacher:
    """What a tuned backbone says of views, its features standardised over the images trained on."""

    def __init__(self, backbone: Backbone, material: Material, settings: Pretraining, device: torch.device) -> None:
        self._backbone = backbone
        self._device = device
        self._autocast = settings.autocast
        some = material.images[material.train[:: max(1, len(material.train) // (4 * AT_ONCE))]]
        read = [self._read(part) for part in some.split(AT_ONCE)]
        self._maps = _scale(torch.cat([each.maps for each in read]), (0, 2, 3))
        self._pooled = _scale(torch.cat([each.pooled for each in read]), (0,))

    def __call__(self, views: torch.Tensor) -> Features:
        """The features of views, uint8 RGB [n, 3, height, width]."""
        read = self._read(views)
        maps, pooled = (
            ((values - mean) / deviation).clamp(-_MOST, _MOST)
            for values, (mean, deviation) in ((read.maps, self._maps), (read.pooled, self._pooled))
        )
        return Features(maps, pooled, read.ratings)

    @torch.no_grad()
    def _read(self, views: torch.Tensor) -> Features:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            features: Features = self._backbone(views)
        return features


def tune(
    material: Material,
    settings: Pretraining,
    folder: Run,
    identity: Mapping[str, Any],
    device: torch.device,
    progress: Progress,
) -> Backbone:
    """The backbone, trained to tell human scores in the folder `folder`, going on from what a killed run left there.

    Raises:
        OutputError: another run stands in the folder.
        CheckpointError: what stands there is damaged.
    """
    state = folder.resume(identity)
    history: list[Numbers] = [] if state is None else state["history"]
    tuner = _Tuner(material, settings, device)
    if state is not None:
        try:
            tuner.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise folder.damaged() from error
    make_folder(folder.path)
    folder.begin(identity)
    for epoch in progress.steps(range(len(history), settings.teacher.epochs)):
        loss = tuner.learn(epoch)
        history.append({"epoch": epoch, "loss": loss, **material.agreement(tuner.ratings(material.val))})
        folder.keep({**tuner.state_dict(), "history": history})
        folder.keep_metrics(history)
        progress.report(history[-1])
    return tuner.average.model


class _Tuner:
    def __init__(self, material: Material, settings: Pretraining, device: torch.device) -> None:
        self._material, self._settings, self._device = material, settings, device
        tuning = settings.teacher
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self._backbone = Backbone(len(settings.labels), tuning.dropout).to(device).eval()
        self._set_scale()
        self.average = Average(self._backbone, tuning.ema)
        parameters = [
            {"params": list(self._backbone.net.parameters()), "highest": tuning.learning_rate},
            {"params": list(self._backbone.readout.parameters()), "highest": tuning.readout_rate},
        ]
        self._optimizer = torch.optim.AdamW(
            parameters, tuning.learning_rate, weight_decay=tuning.weight_decay, fused=device.type == "cuda"
        )
        self._scores = material.standardised()

    def learn(self, epoch: int) -> float:
        """Learn once from each image with a score, in an order that the epoch draws; gives the mean loss."""
        tuning = self._settings.teacher
        generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + epoch)
        train = [number for number in self._material.train if bool(self._material.scores[number].isfinite().any())]
        order = [train[index] for index in torch.randperm(len(train), generator=generator).tolist()]
        batches = [order[start : start + tuning.batch_size] for start in range(0, len(order), tuning.batch_size)]
        self._backbone.train()
        total = torch.zeros((), device=self._device)
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            # Dropout draws from torch's own generator.
            torch.manual_seed(self._settings.seed + epoch)
            for number, batch in enumerate(batches):
                total += self._step(epoch * len(batches) + number, tuning.epochs * len(batches), batch, generator)
        self._backbone.eval()
        return float(total) / len(batches)

    def _step(self, step: int, steps: int, numbers: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        tuning = self._settings.teacher
        size = tuning.sizes[int(torch.randint(len(tuning.sizes), (), generator=generator))]
        views = random_views(self._material.images[numbers], size, generator)
        with self._autocast():
            read = self._backbone(views).ratings
        losses = torch.stack([self._loss(mine, column, numbers) for column, mine in enumerate(read.unbind(1))]).mean()
        for group in self._optimizer.param_groups:
            group["lr"] = group["highest"] * cosine(step, steps, tuning.warmup)
        self._optimizer.zero_grad()
        losses.backward()
        torch.nn.utils.clip_grad_norm_(self._backbone.parameters(), 1.0)
        self._optimizer.step()
        self.average.update(self._backbone, step)
        return losses.detach()

    def _loss(self, read: torch.Tensor, column: int, numbers: Sequence[int]) -> torch.Tensor:
        """Error of one column's ratings [n] where people gave a score, and of the order among those."""
        scored = self._material.scores[list(numbers), column].isfinite().nonzero().squeeze(1).tolist()
        if not scored:
            return read.sum() * 0
        read, wanted = read[scored], self._scores[[numbers[index] for index in scored], column]
        return smooth_l1_loss(read, wanted) + self._settings.teacher.order * ranknet(read, wanted)

    @torch.no_grad()
    def ratings(self, numbers: Sequence[int]) -> torch.Tensor:
        """Ratings [n, labels] of whole images by the averaged weights: the mean of an image's and its mirror's."""
        found = []
        for start in range(0, len(numbers), AT_ONCE):
            images = self._material.images[list(numbers[start : start + AT_ONCE])]
            with self._autocast():
                read = [self.average.model(each).ratings for each in (images, images.flip(-1))]
            found.append((read[0] + read[1]) / 2)
        return torch.cat(found)

    def state_dict(self) -> dict[str, Any]:
        return {
            "backbone": self._backbone.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._backbone.load_state_dict(state["backbone"])
        self.average.model.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def _set_scale(self) -> None:
        """Standardise the pooled features over the images trained on, as the network saw them before."""
        found = torch.cat(list(self._pooled()))
        mean, deviation = _scale(found, (0,))
        self._backbone.mean.copy_(mean[0])
        self._backbone.deviation.copy_(deviation[0])

    def _pooled(self) -> Iterator[torch.Tensor]:
        train = self._material.train
        for start in range(0, len(train), AT_ONCE):
            with self._autocast():
                yield self._backbone(self._material.images[train[start : start + AT_ONCE]]).pooled

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._settings.autocast)


def _scale(values: torch.Tensor, over: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each feature, the dimensions kept."""
    deviation = values.std(over, keepdim=True)
    return values.mean(over, keepdim=True), deviation.clamp_min(_LEAST * float(deviation.mean()))
