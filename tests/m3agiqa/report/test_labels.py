"""Labels beside scores: who is matched with what, and what a set of labels may be taken for."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError
from m3agiqa.report.calibration import Rule
from m3agiqa.report.labels import Choice, join, read_labels
from tests.m3agiqa.report.made import image

RULE = Rule({Aspect.QUALITY: 1.0})
IMAGES = [image(name, quality=score, sha=f"sha-{name}") for name, score in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
HEADER = "id,image_sha256,label,chosen,policy_digest,at,chance\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


def test_the_pages_export_is_read_with_its_chances(file: Path) -> None:
    file.write_text(HEADER + "a,sha-a,accept,random,d,t,0.5\nb,,reject,near:quality,d,t,1\nz,,accept,free,d,t,\n")
    joined = join(read_labels(file), IMAGES, RULE)
    assert joined.choice is Choice.UNEVEN
    assert joined.sample.positions.tolist() == [1, 2]
    assert joined.sample.is_good.tolist() == [True, False]
    assert joined.sample.chances.tolist() == [0.5, 1]
    assert (joined.scored, joined.skipped, joined.unused) == (3, 0, {"of images without scores": 1})


def test_a_table_by_hand_counts_as_a_random_sample_and_says_so(file: Path) -> None:
    file.write_text("image_path,label\na,Reject\nb,skip\n")
    joined = join(read_labels(file), IMAGES, RULE)
    assert (joined.choice, joined.skipped) == (Choice.ASSUMED, 1)
    assert joined.sample.is_good.tolist() == [False]


def test_free_labels_count_where_all_images_have_one(file: Path) -> None:
    file.write_text(HEADER + "a,,accept,free,,,\nb,,accept,free,,,\nc,,reject,random,,,0.3\n")
    joined = join(read_labels(file), IMAGES, RULE)
    assert joined.choice is Choice.COMPLETE
    assert joined.sample.is_even
    assert len(joined.sample.positions) == 3


def test_free_labels_are_left_out_of_a_sample_and_refused_alone(file: Path) -> None:
    file.write_text(HEADER + "a,,accept,free,,,0.9\nb,,accept,random,,,0.3\n")
    joined = join(read_labels(file), IMAGES, RULE)
    assert (joined.choice, joined.unused) == (Choice.EVEN, {"chosen freely": 1})
    assert joined.sample.positions.tolist() == [2]
    file.write_text(HEADER + "a,,accept,free,,,\nb,,accept,free,,,\n")
    with pytest.raises(DataError, match=r"all 2 labels are of images that a person chose.* all 3 scored images"):
        join(read_labels(file), IMAGES, RULE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\na,good\n", "line 2: label good is none of accept, reject, skip"),
        ("id,label\n,accept\n", "line 2: id is empty"),
        ("id,label\na,accept,x\n", "line 2: it has 3 cells"),
        ("id,label\na,accept\na,reject\n", "line 3: a second label of a differs"),
        ("name,label\na,accept\n", "must have a column id or request_id or image_path"),
        ("id\na\n", "must have the columns label"),
        *(
            (f"id,label,chance\na,accept,{chance}\n", f"line 2: chance {chance} is no probability")
            for chance in ("0", "1.5", "-1", "nan", "inf", "x")
        ),
    ],
)
def test_a_wrong_cell_is_named(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_labels(file)


def test_a_label_that_may_mean_another_image_is_refused(file: Path) -> None:
    file.write_text(HEADER + "a,sha-x,accept,random,,,1\n")
    with pytest.raises(DataError, match="label of a is of another image"):
        join(read_labels(file), IMAGES, RULE)
    file.write_text("id,label\na,accept\n")
    with pytest.raises(DataError, match="label of a may mean several images"):
        join(read_labels(file), [*IMAGES, image("a", quality=4.0)], RULE)
    with pytest.raises(DataError, match="none of the 1 labels is of an image with scores"):
        join(read_labels(file), [image("b", quality=1.0)], RULE)
    with pytest.raises(DataError, match="no image has scores of correspondence"):
        join(read_labels(file), IMAGES, Rule({Aspect.CORRESPONDENCE: 1.0}))
