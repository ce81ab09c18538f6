"""What docs/operations.md says of sizing follows from the committed benchmark."""

from __future__ import annotations

import csv

from tests.pages import DOCS, read
from tests.support import ROOT

#: Part of the benchmark's speed that a worker reaches by way of the queue, and of the day for which a GPU has work.
BY_QUEUE, BUSY = 0.90, 0.6
OPERATIONS = read(DOCS / "operations.md")


def speeds() -> list[tuple[dict[str, str], float]]:
    """The rows of the benchmark on an H100 in which the batch was full, and the images a second that a worker makes of
    them.
    """
    with (ROOT / "m3agiqa" / "bench" / "bench.csv").open(encoding="utf-8", newline="") as file:
        on_h100 = [row for row in csv.DictReader(file) if "H100" in row["machine"]]
    rows = [row for row in on_h100 if row["images"] == row["largest_batch"]]
    return [(row, BY_QUEUE * float(row["images_per_s"])) for row in rows]


def gpu_hours(speed: float) -> float:
    """Hours of a GPU that 1,000 images take, those included in which it has no work."""
    return 1000 / (3600 * speed * BUSY)


def sizing() -> str:
    """The table of docs/operations.md."""
    lines = [
        "| side | beams | `M3AGIQA_MAX_BATCH` | images a second by the queue "
        "| images a day and GPU | GPU hours for 1,000 images |",
        "|---" * 6 + "|",
    ]
    for row, speed in speeds():
        a_day = round(86_400 * speed * BUSY, -3)
        cells = [row["size"], row["beams"], row["largest_batch"], f"{speed:.1f}", f"{a_day:,.0f}"]
        lines.append(f"| {' | '.join([*cells, f'{gpu_hours(speed):.3f}'])} |")
    return "\n".join(lines)


def test_the_table_is_that_of_the_benchmark() -> None:
    assert OPERATIONS.count(sizing()) == 1, f"put this into docs/operations.md:\n{sizing()}"


def test_the_price_that_is_shown_follows_from_the_formula() -> None:
    [cost] = [2 * gpu_hours(speed) for row, speed in speeds() if row["largest_batch"] == "64"]
    assert f"At 2 a GPU hour, 1,000 images of side 512 cost {cost:.2f} in batches of 64." in OPERATIONS


def test_the_page_says_what_a_worker_reaches_by_way_of_the_queue() -> None:
    assert f"A worker reached **{BY_QUEUE:.2f}** of its model's own throughput" in read(DOCS / "performance.md")
    assert f"reaches {BY_QUEUE:.2f} of what" in OPERATIONS
    assert f"(`u` = {BUSY})" in OPERATIONS
