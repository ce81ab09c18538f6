from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from m3agiqa.bench.lengths import REFERENCE, Lengths
from m3agiqa.bench.stages import limited
from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError
from m3agiqa.images import noise_image
from m3agiqa.jobs import Job


def test_the_reference_descriptions_are_as_long_as_known() -> None:
    lengths = Lengths.load(REFERENCE)
    assert sum(lengths.counts.values()) == 12_170
    mean = sum(tokens * count for tokens, count in lengths.counts.items()) / 12_170
    assert mean == pytest.approx(60.6, abs=0.1)
    assert lengths.longest == 214


def test_a_draw_parts_the_descriptions_evenly() -> None:
    # given a quarter of 10 tokens, half of 20, a quarter of 30
    lengths = Lengths({10: 5, 20: 10, 30: 5})
    # then many, few and a single one have the same middle
    assert Counter(lengths.draw(8)) == {10: 2, 20: 4, 30: 2}
    assert Counter(lengths.draw(4)) == {10: 1, 20: 2, 30: 1}
    assert lengths.draw(1) == [20]


def test_a_draw_is_repeated_by_its_seed_and_in_no_order() -> None:
    lengths = Lengths.load(REFERENCE)
    assert lengths.draw(50) == lengths.draw(50) != lengths.draw(50, seed=1)
    assert lengths.draw(50) != sorted(lengths.draw(50))


def test_each_description_of_a_job_has_a_length(tmp_path: Path) -> None:
    file = tmp_path / "lengths.csv"
    file.write_text("tokens,descriptions\n30,1\n10,1\n", encoding="utf-8")

    jobs = limited([Job(noise_image(8, 8, seed), "x") for seed in range(2)], Lengths.load(str(file)))

    assert [set(job.limits) for job in jobs] == [set(Aspect)] * 2
    assert Counter(tokens for job in jobs for tokens in job.limits.values()) == {10: 3, 30: 3}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("", "no lengths"),
        ("5,0\n", "line 2"),
        ("5,1\n-3,1\n", "line 3"),
        ("5,1\n5,2\n", "line 3"),
        ("five,1\n", "line 2"),
        ("5,1\n6\n", "line 3"),
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path: Path, rows: str, said: str) -> None:
    file = tmp_path / "lengths.csv"
    file.write_text("tokens,descriptions\n" + rows, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        Lengths.load(str(file))
