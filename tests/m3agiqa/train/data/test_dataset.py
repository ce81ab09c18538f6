from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3agiqa.cli import main
from m3agiqa.contract import Aspect
from m3agiqa.errors import DataError
from m3agiqa.profile import ModelProfile
from m3agiqa.train.data.conversations import ConversationRecord, read_conversations, write_conversations
from m3agiqa.train.data.dataset import PREFIX, DataSet, Entry, load_data
from m3agiqa.train.data.descriptions import read_descriptions
from m3agiqa.train.data.splits import Split
from tests.m3agiqa.train.conftest import MakeData, write_table

ASKED = ModelProfile.load("published").aspects[Aspect.CORRESPONDENCE]


@pytest.mark.parametrize(
    ("columns", "aspect", "column"),
    [
        (["mos_quality", "mos_align"], Aspect.QUALITY, "mos_quality"),
        (["mos_quality", "mos_align"], Aspect.CORRESPONDENCE, "mos_align"),
        (["mos_quality", "mos_correspondence", "mos_authenticity"], Aspect.CORRESPONDENCE, "mos_correspondence"),
        (["mos_quality", "mos_correspondence", "mos_authenticity"], Aspect.AUTHENTICITY, "mos_authenticity"),
        (["mos"], Aspect.QUALITY, "mos"),
    ],
)
def test_every_data_sets_own_columns_are_known(
    make_data: MakeData, columns: list[str], aspect: Aspect, column: str
) -> None:
    data = load_data(make_data(3, **{name: lambda index: index for name in columns}))

    assert data.label_column(aspect) == column


def test_a_label_that_is_not_there_names_the_columns(make_data: MakeData) -> None:
    data = load_data(make_data(3, mos_quality=lambda index: index))

    with pytest.raises(DataError, match=r"mos_align or mos_correspondence.*name, prompt, mos_quality"):
        data.label_column(Aspect.CORRESPONDENCE)
    with pytest.raises(DataError, match="no column beauty"):
        data.label_column(Aspect.QUALITY, "beauty")


def test_labels_are_scaled_and_an_empty_cell_is_none() -> None:
    entry = Entry("a.png", "", {"mos": "80", "empty": ""})

    assert entry.label("mos", 0.05) == pytest.approx(4)
    assert entry.label("empty") is entry.label("none") is None


@pytest.mark.parametrize("text", ["2,5", "n/a", "nan", "inf", "-Infinity", "1e999", "good"])
def test_a_label_that_is_no_number_is_told_of_with_its_place(make_data: MakeData, text: str) -> None:
    data = load_data(make_data(3, mos_quality=lambda index: text if index == 1 else index))

    with pytest.raises(DataError, match=rf"data.csv, line 3: mos_quality is '{text}', which is no number"):
        data.check_numbers(data.label_column(Aspect.QUALITY))


@pytest.mark.parametrize(
    ("name", "group"),
    [("sd1.5_highcorr_247.jpg", "sd1.5_highcorr"), ("DALLE2_3.png", "DALLE2"), ("0.png", None), ("_0.png", None)],
)
def test_a_group_is_the_names_prefix(name: str, group: str | None) -> None:
    assert Entry(name, "", {}).group(PREFIX) == group


def test_a_table_with_a_wrong_row_is_refused_unless_it_is_asked_about(make_data: MakeData) -> None:
    folder = make_data(3)
    with (folder / "data.csv").open("a", encoding="utf-8") as file:
        file.write("x.png,a cat, on a mat,3\ny.png\n")

    with pytest.raises(DataError, match=r"line 5: it has 4 cells.*and 1 more.*`m3agiqa data check` lists"):
        load_data(folder)
    data = load_data(folder, with_wrong_rows=True)
    assert len(data.entries) == 3
    assert [sentence.partition(": ")[0] for sentence in data.wrong] == [
        f"{folder / 'data.csv'}, line {line}" for line in (5, 6)
    ]


PUBLISHED = {
    "agiqa-3k": (
        "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align\n"
        'AttnGAN_normal_000.jpg,"a dog, anime style",,,anime style,0.97,0.22,4.1,0.62\n'
        "sd1.5_lowstep_7.jpg,a tray,blurry,,,3.5,0.2,1.25,0.67\n"
    ),
    "aigciqa2023": (
        ",name,prompt,style,class,quality_mos,authenticity_mos,correspondence_mos\n"
        "0,0.png,a dog,Basic,Animals,58.3,41.2,62.9\n"
        "1,1.png,a corner,Detail,Spaces,31.0,36.4,27.5\n"
    ),
    "aigiqa-20k": "name,prompt,mos\nDALLE2_0.png,a dog,3.25\nMJ_0.png,a car,1.5\n",
}


@pytest.mark.parametrize(
    ("published", "aspect", "scale", "labels", "groups"),
    [
        ("agiqa-3k", "quality", 1, [0.97, 3.5], ["AttnGAN_normal", "sd1.5_lowstep"]),
        ("agiqa-3k", "correspondence", 1, [4.1, 1.25], ["AttnGAN_normal", "sd1.5_lowstep"]),
        ("aigciqa2023", "quality", 0.05, [2.915, 1.55], [None, None]),
        ("aigciqa2023", "correspondence", 0.05, [3.145, 1.375], [None, None]),
        ("aigciqa2023", "authenticity", 0.05, [2.06, 1.82], [None, None]),
        ("aigiqa-20k", "quality", 1, [3.25, 1.5], ["DALLE2", "MJ"]),
    ],
)
def test_published_tables_are_read_as_they_are(
    tmp_path: Path, published: str, aspect: str, scale: float, labels: list[float], groups: list[str | None]
) -> None:
    # given a table of the published form
    parts = ["info_train", "info_val", "info_test"] if published == "aigiqa-20k" else ["data"]
    for part in parts:
        (tmp_path / f"{part}.csv").write_text(PUBLISHED[published])
    # when it is read
    data = load_data(tmp_path)
    # then its scores and groups are found by the aspect's name alone
    column = data.label_column(Aspect(aspect))
    assert [entry.label(column, scale) for entry in data.entries[:2]] == pytest.approx(labels)
    assert [entry.group(PREFIX) for entry in data.entries[:2]] == groups
    assert len(data.entries) == 2 * len(parts)


def test_aigiqa_20k_has_a_table_a_part_and_images_elsewhere(tmp_path: Path) -> None:
    # given
    for part, count in (("train", 7), ("val", 1), ("test", 2)):
        rows = [{"name": f"{part}{index}.png", "prompt": "p", "mos": 60} for index in range(count)]
        write_table(tmp_path / f"info_{part}.csv", rows)
    # when
    data = load_data(tmp_path, tmp_path / "elsewhere")
    # then
    assert len(data.entries) == 10
    assert data.image("train0.png") == tmp_path / "elsewhere" / "train0.png"
    parts = Split(by="files").names(data)
    assert {part: len(names) for part, names in parts.items()} == {"train": 7, "val": 1, "test": 2}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "neither data.csv nor info_train.csv"),
        (b"name,mos\na.png,3\n", "columns name and prompt"),
        (b"\xff\xfe\x00", "no CSV file in UTF-8"),
        (b"", "is empty"),
        (b"Name;Prompt;mos;MOS \n", "names a column twice: mos"),
    ],
)
def test_a_table_that_is_none_says_so(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "data.csv").write_bytes(content)

    with pytest.raises(DataError, match=words):
        load_data(tmp_path)


def test_a_split_by_prompt_keeps_prompts_together(make_data: MakeData) -> None:
    data = load_data(make_data(60))
    prompts = {entry.name: entry.prompt for entry in data.entries}

    parts = Split(by="prompt", ratio=(7, 1, 2), seed=1).names(data)

    assert {part: len(names) for part, names in parts.items()} == {"train": 42, "val": 6, "test": 12}
    train, val, test = ({prompts[name] for name in names} for names in parts.values())
    assert not train & val
    assert not train & test
    assert not val & test


def test_a_split_hangs_on_the_seed_and_not_on_the_tables_order(make_data: MakeData) -> None:
    data = load_data(make_data(40))
    backwards = DataSet(data.folder, data.images, data.columns, data.entries[::-1], data.parts)

    def validation(seed: int, source: DataSet = data) -> set[str]:
        return set(Split(by="picture", ratio=(3, 1), seed=seed).names(source)["val"])

    assert len(validation(1)) == 10
    assert validation(1) == validation(1, backwards)
    assert validation(1) != validation(2)


def test_a_split_by_files_obeys_the_conversations(make_data: MakeData) -> None:
    folder = make_data(6)
    names = [entry.name for entry in load_data(folder).entries]
    for part, images in (("train", names[:4]), ("val", names[4:])):
        write_conversations(
            folder / f"{part}.json",
            [ConversationRecord.for_training(name, name, "p", "It is.", 2, ASKED) for name in images],
        )

    assert Split(by="files").names(load_data(folder)) == {"train": names[:4], "val": names[4:]}

    write_conversations(folder / "val.json", [ConversationRecord.for_training("x", names[0], "p", "It is.", 2, ASKED)])
    with pytest.raises(DataError, match=f"{names[0]} and 0 others are in two parts"):
        Split(by="files").names(load_data(folder))


def test_a_split_that_leaves_a_part_empty_is_refused(make_data: MakeData) -> None:
    with pytest.raises(DataError, match="leaves nothing for val"):
        Split(by="prompt").names(load_data(make_data(3)))


@pytest.mark.parametrize(
    ("mos", "word"), [(0, "bad"), (0.99, "bad"), (1, "poor"), (4.2, "excellent"), (5, "excellent")]
)
def test_a_conversation_ends_with_the_word_for_its_score(mos: float, word: str) -> None:
    made = ConversationRecord.for_training("1", "a.png", "a {prompt} cat", "A cat.", mos, ASKED)

    assert made.word == word
    assert made.conversations[0].content.startswith("<image>\nPlease closely examine")
    assert "'a {prompt} cat'" in made.conversations[0].content
    assert made.description == "A cat."


def test_conversations_read_as_written_and_older_ones_too(tmp_path: Path) -> None:
    made = ConversationRecord.for_training("1", "a.png", "p", "A cat.", 3, ASKED)
    write_conversations(tmp_path / "x.json", [made])
    assert read_conversations(tmp_path / "x.json") == [made]

    item = json.loads((tmp_path / "x.json").read_text())[0]
    item |= {"id": 7, "image": "some/folder/a.png", "response_0": "Mine.", "response_1": "good"}
    (tmp_path / "x.json").write_text(json.dumps([item]))
    [read] = read_conversations(tmp_path / "x.json")
    assert (read.id, read.image, read.response_0) == ("7", "a.png", "Mine.")
    assert read_descriptions(tmp_path / "x.json", Aspect.QUALITY) == {"a.png": "Mine."}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "line 1: id: "),
        ("[{", "not JSON"),
        ('[{"id": 1, "image": "a.png", "conversations": []}]', "item 1: conversations"),
    ],
)
def test_a_broken_conversation_file_says_where(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_conversations(tmp_path / "x.json")


def test_descriptions_come_from_lines_of_the_aspect(tmp_path: Path) -> None:
    lines = [
        {"image": "a.png", "aspect": "quality", "description": "old"},
        {"image": "a.png", "aspect": "quality", "description": 'new" }'},
        {"image": "a.png", "aspect": "correspondence", "description": "other"},
        {"image": "x/b.png", "description": "any"},
        {"image": "c.png", "aspect": "quality", "error": "refused"},
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert read_descriptions(path, Aspect.QUALITY) == {"a.png": "new", "b.png": "any"}

    path.write_text('{"image": "a.png", "description": "x"}\nnonsense\n')
    with pytest.raises(DataError, match="line 2"):
        read_descriptions(path, Aspect.QUALITY)


def test_the_command_writes_conversations_with_the_aspects_own_words(
    make_data: MakeData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # given quality and correspondence that disagree
    folder = make_data(12, mos_quality=lambda index: 0.5, mos_align=lambda index: 4.5)
    names = [entry.name for entry in load_data(folder).entries]
    descriptions = tmp_path / "d.jsonl"
    descriptions.write_text("".join(json.dumps({"image": name, "description": "It is."}) + "\n" for name in names[:-1]))
    # when
    command = ["data", "conversations", str(folder), "--aspect", "correspondence", "--descriptions", str(descriptions)]
    assert main([*command, "--ratio", "3:1"]) == 0
    # then
    items = [item for part in ("train", "val") for item in read_conversations(folder / f"{part}.json")]
    assert sorted(item.image for item in items) == sorted(names[:-1])
    assert {item.word for item in items} == {"excellent"}
    assert "1 have no description or score" in capsys.readouterr().out
    assert main(["data", "check", str(folder), "--aspect", "correspondence"]) == 0
