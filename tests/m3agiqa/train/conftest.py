from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

#: Makes a data set in the common layout.
MakeData = Callable[..., Path]


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Thousands of tiny steps: handing each to several threads takes longer than doing it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_data(tmp_path: Path) -> MakeData:
    """A folder with `count` small images of their own colours, three to a prompt, two generators in turn."""

    def make(count: int = 12, **columns: Callable[[int], object]) -> Path:
        folder = tmp_path / "data"
        (folder / "images").mkdir(parents=True)
        labels = columns or {"mos_quality": lambda index: round(0.4 * index % 5, 2)}
        rows = []
        for index in range(count):
            name = f"gen{index % 2}_{index:03d}.png"
            Image.new("RGB", (40, 30), (index * 20 % 256, 80, 120 + index % 100)).save(folder / "images" / name)
            values = {column: make_value(index) for column, make_value in labels.items()}
            rows.append({"name": name, "prompt": f"thing {index // 3}", **values})
        write_table(folder / "data.csv", rows)
        return folder

    return make
