"""What a base learns from: images on the device, their human scores and conversations, and who is kept back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from m3agiqa.errors import DataError
from m3agiqa.train.base.settings import Pretraining
from m3agiqa.train.base.views import load_images
from m3agiqa.train.data.conversations import ConversationRecord
from m3agiqa.train.data.dataset import PREFIX, DataSet
from m3agiqa.train.data.splits import DISTORTION, scored
from m3agiqa.train.data.swap import SWAP
from m3agiqa.train.evaluation.metrics import srcc, srcc_by_group

#: Images read at once where nothing is learned.
AT_ONCE = 32
#: One line of metrics.csv.
Numbers = dict[str, float]


@dataclass(frozen=True)
class Progress:
    """How a run tells how far it is."""

    images: Callable[[Iterable[Any], int], Iterable[Any]]
    steps: Callable[[range], Iterable[int]]
    report: Callable[[Numbers], None]
    note: Callable[[str], None]


class Material:
    def __init__(
        self,
        data: DataSet,
        conversations: Sequence[ConversationRecord],
        settings: Pretraining,
        device: torch.device,
        progress: Progress,
    ) -> None:
        """Read all images.

        Raises:
            DataError: a column, a score or an image is missing; says which.
        """
        self.labels = settings.labels
        if missing := [label for label in self.labels if label not in data.columns]:
            raise DataError(f"{data.folder} has no column {', '.join(missing)}, only {', '.join(data.columns)}")
        entries = {entry.name: entry for entry in data.entries}
        by_name: dict[str, list[ConversationRecord]] = {}
        for item in conversations:
            by_name.setdefault(item.image, []).append(item)
        names = [name for name in entries if name in by_name]
        if not names:
            raise DataError(f"no image of {data.folder} has a conversation")
        self.conversations = [by_name[name] for name in names]
        split = settings.split.names(data)
        number = {name: index for index, name in enumerate(names)}
        self.train, kept_back = ([number[name] for name in split[part] if name in number] for part in ("train", "val"))
        if not self.train or not kept_back:
            raise DataError("the split leaves no image with a conversation for train or val")
        #: Images kept back, without copies whose scores are only assumed.
        self.val = [number[name] for name in scored(data, [names[index] for index in kept_back])]
        self._groups = [entries[names[index]].group(PREFIX) or "" for index in self.val]
        # A score under another's prompt is about the pair: the teacher sees the image alone.
        scores = [
            [
                None if entries[name].values.get(DISTORTION) == SWAP else entries[name].label(label)
                for label in self.labels
            ]
            for name in names
        ]
        self.scores = torch.tensor([[math.nan if score is None else score for score in row] for row in scores])
        known = self.scores[self.train].isfinite().sum(0)
        if few := [label for label, count in zip(self.labels, known.tolist(), strict=True) if count < 2]:
            raise DataError(f"{', '.join(few)}: too few scores in the part train to learn from")
        self.images = load_images(
            data, names, settings.side, device, lambda loaded: progress.images(loaded, len(names))
        )

    def standardised(self) -> torch.Tensor:
        """All human scores, NaN where there is none, on the images' device; mean 0 and variance 1 in the part train."""
        some = self.scores[self.train]
        mean = some.nanmean(0)
        deviation = (some - mean).square().nanmean(0).sqrt().clamp_min(1e-6)
        return ((self.scores - mean) / deviation).to(self.images.device)

    def agreement(self, ratings: torch.Tensor) -> Numbers:
        """SRCC of ratings of the images in `val` with people's scores: of all, and the mean within generators."""
        read, scores = (each.double().cpu().numpy() for each in (ratings, self.scores[self.val]))
        numbers: Numbers = {}
        for column, label in enumerate(self.labels):
            known = np.isfinite(scores[:, column])
            mine, theirs = read[known, column], scores[known, column]
            numbers[f"srcc_{label}"] = srcc(mine, theirs)
            groups = [group for group, is_known in zip(self._groups, known, strict=True) if is_known]
            within = list(srcc_by_group(mine, theirs, groups).values())
            numbers[f"within_{label}"] = sum(within) / len(within) if within else math.nan
        return numbers
