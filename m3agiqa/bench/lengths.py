"""Draws the lengths of descriptions, so that a batch ends as unevenly as real ones do."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from m3agiqa.errors import DataError
from m3agiqa.tables import open_table

#: Names the lengths that the package has: of 12,170 reference descriptions for AGIQA-3K, AIGCIQA2023 and AIGIQA-20K
#: (https://github.com/strawhatboy/M3-AGIQA), in tokens of the published tokenizer, the end token counted.
REFERENCE = "reference"
_REFERENCE_FILE = Path(__file__).with_name("lengths.csv")


@dataclass(frozen=True)
class Lengths:
    """How many descriptions have each length in tokens, the end token counted."""

    counts: Mapping[int, int]

    @classmethod
    def load(cls, name: str) -> Lengths:
        """Read a table with the columns `tokens` and `descriptions`.

        Args:
            name: a file, or REFERENCE.

        Raises:
            DataError: the file cannot be read, or a row is no pair of a length and a positive count.
        """
        counts: dict[int, int] = {}
        with open_table(_REFERENCE_FILE if name == REFERENCE else Path(name), ("tokens", "descriptions")) as table:
            for row in table:
                if row.error is not None:
                    raise DataError(f"{table}, line {row.line}: {row.error}")
                tokens, count = _whole(row.values["tokens"]), _whole(row.values["descriptions"])
                if not tokens or not count or tokens in counts:
                    wanted = "a length that no other line has, and a count, both 1 or more"
                    raise DataError(f"{table}, line {row.line}: there must be {wanted}")
                counts[tokens] = count
            if not counts:
                raise DataError(f"{table} has no lengths")
        return cls(dict(sorted(counts.items())))

    @property
    def longest(self) -> int:
        return max(self.counts)

    def draw(self, number: int, seed: int = 0) -> list[int]:
        """`number` lengths that part the descriptions evenly, in random order.

        A draw at random would make short batches differ by chance, and with them what is measured.
        """
        lengths, ends = list(self.counts), list(accumulate(self.counts.values()))
        middles = [(at + 0.5) / number * ends[-1] for at in range(number)]
        drawn = [next(length for length, end in zip(lengths, ends, strict=True) if middle < end) for middle in middles]
        random.Random(seed).shuffle(drawn)
        return drawn


def _whole(cell: str) -> int | None:
    cell = cell.strip()
    return int(cell) if cell.isascii() and cell.isdecimal() and len(cell) < 10 else None
