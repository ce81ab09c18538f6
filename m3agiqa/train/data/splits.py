"""Which images are trained on, and which are kept back."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from m3agiqa.errors import DataError
from m3agiqa.train.data.conversations import read_conversations
from m3agiqa.train.data.dataset import PARTS, DataSet

#: Column that names what was done to an image whose scores are assumed; empty where people scored it.
DISTORTION = "distortion"
#: The largest share of a ratio; shares may be given as counts of images.
_MOST = 1_000_000_000


class Split(BaseModel):
    """How a data set is split into parts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: `prompt` keeps all images of a prompt in one part; `files` follows train.json, val.json, test.json or info_*.csv.
    by: Literal["picture", "prompt", "files"] = "prompt"
    #: Shares of train, validation and, if there is a third, test, such as 8:2 or 7:1:2.
    ratio: tuple[float, ...] = Field(default=(8, 2), min_length=2, max_length=3)
    seed: int = Field(default=42, ge=0, lt=2**32)

    @field_validator("ratio")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < share <= _MOST for share in value):
            raise ValueError(f"must be shares above 0, and at most {_MOST}")
        return value

    def names(self, data: DataSet) -> dict[str, list[str]]:
        """The image names of each part, in the table's order.

        Raises:
            DataError: a part is empty, the files are missing, or an image is in two parts.
        """
        known = list(dict.fromkeys(entry.name for entry in data.entries))
        wanted = _by_files(data) if self.by == "files" else self._by_ratio(data)
        parts = {part: [name for name in known if name in names] for part, names in wanted.items()}
        for part, names in parts.items():
            if not names:
                raise DataError(f"{data.folder}: the split leaves nothing for {part}")
        return parts

    def _by_ratio(self, data: DataSet) -> dict[str, set[str]]:
        groups: dict[str, list[str]] = defaultdict(list)
        for name, prompt in {entry.name: entry.prompt for entry in data.entries}.items():
            groups[prompt if self.by == "prompt" else name].append(name)
        keys = sorted(groups)
        random.Random(self.seed).shuffle(keys)
        return _fill([groups[key] for key in keys], self.ratio)


def scored(data: DataSet, names: Sequence[str]) -> list[str]:
    """The images among `names` whose scores people gave; all of them where every one is a copy with assumed scores."""
    copies = {entry.name for entry in data.entries if entry.values.get(DISTORTION)}
    return [name for name in names if name not in copies] or list(names)


def _fill(groups: Sequence[Sequence[str]], ratio: Sequence[float]) -> dict[str, set[str]]:
    """Fill one part after the other with whole groups, each part up to its share."""
    total = sum(map(len, groups))
    bounds = [total * sum(ratio[: part + 1]) / sum(ratio) for part in range(len(ratio))]
    parts: list[set[str]] = [set() for _ in ratio]
    part = placed = 0
    for group in groups:
        # A group goes where its larger half belongs.
        while part < len(ratio) - 1 and placed + len(group) / 2 > bounds[part]:
            part += 1
        parts[part].update(group)
        placed += len(group)
    return dict(zip(PARTS, parts, strict=False))


def _by_files(data: DataSet) -> dict[str, set[str]]:
    named: Mapping[str, Iterable[str]] = data.parts or {
        part: [item.image for item in read_conversations(path)]
        for part in PARTS
        if (path := data.folder / f"{part}.json").is_file()
    }
    parts = {part: set(names) for part, names in named.items()}
    if not {"train", "val"} <= set(parts):
        raise DataError(f"{data.folder} has no train.json and val.json, nor info_train.csv and info_val.csv")
    counts = Counter(name for names in parts.values() for name in names)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise DataError(f"{data.folder}: {twice[0]} and {len(twice) - 1} others are in two parts of the split")
    return parts
