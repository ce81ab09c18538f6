"""Images under the prompts of others: an image hardly shows what was never asked of it, and nobody has to be asked."""

from __future__ import annotations

import csv
import io
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from m3agiqa import jsonl
from m3agiqa.console import reason
from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError, UsageError
from m3agiqa.outputs import make_folder, write
from m3agiqa.pools import threads
from m3agiqa.train.configuration import Configuration
from m3agiqa.train.data.dataset import IMAGES, TABLE, DataSet, Entry
from m3agiqa.train.data.splits import DISTORTION, Split

#: What stands in the column `distortion`.
SWAP = "prompt"
_THREADS = 16


class Swaps(Configuration):
    """One of `cfg/train/`."""

    #: Score of each such pair, by column.
    scores: dict[str, float] = Field(min_length=1)
    #: Columns left empty, whose scores say nothing of the pair.
    empties: tuple[str, ...] = ()
    #: What is said of a pair's correspondence, with {prompt}.
    sentences: tuple[str, ...] = Field(min_length=1)
    #: Prompts are swapped within its parts, so that no part learns from another's images.
    split: Split = Split()
    seed: int = Field(default=42, ge=0, lt=2**32)


@dataclass(frozen=True)
class Pair:
    """An image and the prompt of another."""

    entry: Entry
    prompt: str

    @property
    def name(self) -> str:
        return f"{self.entry.name}~{SWAP}{Path(self.entry.name).suffix}"


def swap(data: DataSet, descriptions: Sequence[Path], settings: Swaps, output: Path) -> tuple[int, int]:
    """Write a data set of the images and of such pairs: `images/`, `data.csv` and `descriptions.jsonl`.

    The table's column `distortion` says `prompt` of each pair. Distorted copies are taken over and not paired.

    Returns:
        How many images and pairs.

    Raises:
        DataError: a column is missing, or a file cannot be read.
        UsageError: `output` is not empty.
    """
    columns = (*settings.scores, *settings.empties)
    if missing := [column for column in columns if column not in data.columns]:
        raise DataError(f"{data.folder} has no column {', '.join(missing)}, only {', '.join(data.columns)}")
    entries = {entry.name: entry for entry in data.entries}
    kept = [line for path in descriptions for _, line in jsonl.read(path) if str(line.get("image")) in entries]
    make_folder(output)
    if any(output.iterdir()):
        raise UsageError(f"{output} is not empty; name a new folder")
    pairs = list(_pairs(data, settings))
    images = output / IMAGES
    try:
        make_folder(images)
        files = {**{name: name for name in entries}, **{pair.name: pair.entry.name for pair in pairs}}
        with threads(_THREADS) as pool:
            for _ in pool.map(lambda name: _copy(data.image(files[name]), images / name), files):
                pass
        chance = random.Random(settings.seed)
        said = [_said(pair, chance.choice(settings.sentences)) for pair in pairs]
        write(output / "descriptions.jsonl", jsonl.dump([*kept, *said]))
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, list(dict.fromkeys([*data.columns, DISTORTION])))
        writer.writeheader()
        writer.writerows(entry.values for entry in entries.values())
        writer.writerows(_row(pair, settings) for pair in pairs)
        # Last: with its table, the data set is whole.
        write(output / TABLE, table.getvalue())
    except BaseException:
        # A folder in which something is left would refuse the same command.
        shutil.rmtree(images, ignore_errors=True)
        (output / "descriptions.jsonl").unlink(missing_ok=True)
        raise
    return len(entries), len(pairs)


def _pairs(data: DataSet, settings: Swaps) -> Iterator[Pair]:
    """Each image with another's prompt; each prompt as often as it has images, so that a split falls as before."""
    entries = {entry.name: entry for entry in data.entries if not entry.values.get(DISTORTION)}
    chance = random.Random(settings.seed)
    for part in settings.split.names(data).values():
        names = [name for name in part if name in entries]
        prompts = sorted({entries[name].prompt for name in names})
        chance.shuffle(prompts)
        rank = {prompt: number for number, prompt in enumerate(prompts)}
        ordered = sorted(names, key=lambda name: rank[entries[name].prompt])
        # Half the way around is another prompt, unless one has half of all images.
        half = len(ordered) // 2
        for name, other in zip(ordered, ordered[half:] + ordered[:half], strict=True):
            if entries[name].prompt != entries[other].prompt:
                yield Pair(entries[name], entries[other].prompt)


def _row(pair: Pair, settings: Swaps) -> dict[str, str]:
    return {
        **pair.entry.values,
        **dict.fromkeys(settings.empties, ""),
        **{column: f"{score:g}" for column, score in settings.scores.items()},
        "name": pair.name,
        "prompt": pair.prompt,
        DISTORTION: SWAP,
    }


def _said(pair: Pair, sentence: str) -> dict[str, str]:
    text = sentence.replace("{prompt}", pair.prompt)
    aspect = Aspect.CORRESPONDENCE.value
    return {"image": pair.name, "aspect": aspect, "prompt": pair.prompt, "description": text[0].upper() + text[1:]}


def _copy(image: Path, target: Path) -> None:
    try:
        shutil.copyfile(image, target)
    except OSError as error:
        raise DataError(reason(error)) from error
