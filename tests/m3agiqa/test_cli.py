"""`m3agiqa score`, `batch` and `download`, with the fake model unless the model matters."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from m3agiqa.cli import COMMANDS, local, main
from m3agiqa.contract import Aspect, Failure, Verdict
from m3agiqa.errors import CheckpointError
from m3agiqa.jobs import Job, Scores
from m3agiqa.scorer import FakeScorer
from tests.m3agiqa.hub_server import Hub
from tests.m3agiqa.test_hub import ADAPTER, ADAPTER_FILES, BASE, BASE_FILES, HEAD_FILES, HEADS, make_local, make_profile

FAKE = ("--model", "fake")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.new("RGB", (64, 48), "teal").save(path)
    return path


def test_a_verdict_and_nothing_else_is_on_stdout(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(image), "--prompt", "a cat", *FAKE, "--json"]) == 0

    verdict = Verdict.model_validate_json(capsys.readouterr().out)
    assert verdict.status == "scored"
    assert list(verdict.aspects) == list(Aspect)
    assert verdict.image is not None
    assert (verdict.image.width, verdict.image.height, verdict.image.format) == (64, 48, "PNG")
    assert verdict.model is not None
    assert verdict.model.profile == "fake"
    assert verdict.policy is not None
    assert verdict.policy.name == "default"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((), list(Aspect)),
        (("--aspect", "all"), list(Aspect)),
        (("--aspect", "authenticity"), ["authenticity"]),
        (("--aspect", "quality", "authenticity"), ["quality", "authenticity"]),
        (("--aspect", "authenticity", "--aspect", "quality"), ["authenticity", "quality"]),
        (("--aspect", "quality", "--aspect", "quality"), ["quality"]),
    ],
)
def test_aspects_can_be_listed_or_repeated(
    image: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], wanted: list[str]
) -> None:
    assert main(["score", str(image), "--prompt", "", *FAKE, "--json", *arguments]) == 0
    assert list(json.loads(capsys.readouterr().out)["aspects"]) == wanted


def test_without_json_people_read_it(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(image), "--prompt", "a cat", *FAKE]) == 0
    out = capsys.readouterr().out
    assert "decision: " in out
    for aspect in Aspect:
        assert f"{aspect}: No model looked" in out


def test_the_verdict_can_go_to_a_file(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "verdict.json"
    assert main(["score", str(image), "--prompt", "", *FAKE, "--json", "--output", str(output)]) == 0
    assert json.loads(output.read_text()) == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: None, "fetch_error"),
        (lambda path: path.mkdir(), "fetch_error"),
        (lambda path: path.write_text("hello"), "image_unreadable"),
        (lambda path: path.write_bytes(b""), "image_unreadable"),
        (lambda path: os.mkfifo(path), "fetch_error"),
    ],
    ids=["missing", "folder", "text", "empty", "pipe"],
)
def test_what_is_no_image_is_a_failed_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object, code: str
) -> None:
    assert callable(make)
    make(tmp_path / "x.png")
    assert main(["score", str(tmp_path / "x.png"), "--prompt", "a cat", *FAKE, "--json"]) == 1
    verdict = Verdict.model_validate_json(capsys.readouterr().out)
    assert verdict.status == "failed"
    assert verdict.decision == "review"
    assert verdict.aspects == {}
    assert verdict.error is not None
    assert verdict.error.code == code


def test_a_failure_is_readable_without_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path / "none.png"), "--prompt", "", *FAKE]) == 1
    assert "error: fetch_error" in capsys.readouterr().out


def test_a_prompt_that_is_too_long_is_a_failed_verdict(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(image), "--prompt", "x" * 9_000, *FAKE, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "request_invalid"


def test_a_model_that_is_not_downloaded_is_a_failed_verdict(
    hub: Hub, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_profile(tmp_path)
    model = str(tmp_path / "lab.yaml")
    assert main(["score", str(image), "--prompt", "", "--model", model, "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "hub_error"
    assert "lab/base: the hub has no such repository" in error["message"]


@pytest.mark.parametrize("name", ["model", "policy"])
def test_an_unknown_name_is_one_line(image: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["score", str(image), "--prompt", "", *FAKE, f"--{name}", "nonsense", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: no ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["score"],
        ["score", "x.png"],
        ["score", "x.png", "--prompt", "", "--aspect", "beauty"],
        ["score", "x.png", "--prompt", "", "--device", "tpu"],
        ["batch", "x.csv"],
        ["batch", "x.csv", "--output", "y.csv"],
        ["batch", "x.csv", "--output", "x.json"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = int(str(exit_.code))
    assert code == 2
    assert capsys.readouterr().out == ""


def test_the_bundled_model_scores_by_default(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(image), "--prompt", "a cat", "--device", "cpu", "--json"]) == 0
    verdict = Verdict.model_validate_json(capsys.readouterr().out)
    assert verdict.model is not None
    assert verdict.model.profile == "mini"
    assert set(verdict.model.revisions) >= {"base", "adapter.quality", "head.quality"}
    assert all(revision.startswith("local:") for revision in verdict.model.revisions.values())


def test_the_published_model_is_the_default_only_where_it_can_run_at_once(
    monkeypatch: pytest.MonkeyPatch, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert local.default_model("auto") == "mini"
    assert "m3agiqa download" in capsys.readouterr().err
    assert hub.seen == []

    monkeypatch.setattr(local.hub, "resolve", lambda profile, offline: None)
    assert local.default_model("auto") == "published"
    assert local.default_model("cpu") == "mini"


def write_csv(folder: Path, rows: list[tuple[str, str]], columns: str = "image_path,prompt") -> Path:
    path = folder / "in.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(columns + "\n")
        csv.writer(file).writerows(rows)
    return path


def test_a_batch_gives_a_row_for_every_image_and_aspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given images beside the CSV and in the current folder, and two that are none
    data, here = tmp_path / "data", tmp_path / "here"
    data.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    rows = []
    for number in range(10):
        Image.new("RGB", (32, 32), (number * 20, 0, 0)).save(data / f"{number}.png")
        rows.append((f"{number}.png", f'prompt "{number}", größer\nzweite Zeile'))
    Image.new("RGB", (32, 32)).save(here / "own.png")
    (data / "text.png").write_text("no image")
    rows[4:4] = [("text.png", "a cat"), ("missing.png", "a dog"), ("own.png", "")]

    # When all aspects are asked for
    source = write_csv(data, rows)
    assert main(["batch", str(source), "--aspect", "all", "--output", "out.json", *FAKE]) == 0

    # Then each image has its three rows in order, and only the bad ones have errors
    records = json.loads((here / "out.json").read_text(encoding="utf-8"))
    assert [(r["image_path"], r["prompt"]) for r in records[::3]] == rows
    assert [r["aspect"] for r in records] == list(Aspect) * len(rows)
    errors = {r["image_path"]: r["error"].partition(":")[0] for r in records if r["error"]}
    assert errors == {"text.png": "image_unreadable", "missing.png": "fetch_error"}
    for record in records:
        assert (record["score"] is None) == (record["error"] is not None)
        assert record["decision"] in ("accept", "review", "reject")
        if record["error"]:
            assert record["decision"] == "review"

    with (here / "out.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert list(table[0])[:7] == ["image_path", "prompt", "aspect", "description", "score", "rating", "error"]
    assert [row["prompt"] for row in table[::3]] == [prompt for _, prompt in rows]
    assert [float(row["score"]) if row["score"] else None for row in table] == [r["score"] for r in records]

    # And the averages are those of the scored ones
    out = capsys.readouterr().out
    for aspect in Aspect:
        scores = [r["score"] for r in records if r["aspect"] == aspect and r["score"] is not None]
        assert f"{sum(scores) / len(scores):.3f}" in out


def test_a_batch_of_one_aspect(tmp_path: Path, image: Path) -> None:
    source = write_csv(tmp_path, [(image.name, "a cat")])
    output = tmp_path / "out.json"
    assert main(["batch", str(source), "--aspect", "quality", "--output", str(output), *FAKE]) == 0
    assert [record["aspect"] for record in json.loads(output.read_text())] == ["quality"]


def test_a_batch_in_which_nothing_could_be_scored_fails(tmp_path: Path) -> None:
    source = write_csv(tmp_path, [("none.png", "a cat")])
    assert main(["batch", str(source), "--output", str(tmp_path / "out.json"), *FAKE]) == 1
    assert json.loads((tmp_path / "out.json").read_text())[0]["error"]


def test_an_interrupted_batch_keeps_what_was_scored(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(FakeScorer):
        def score(self, jobs):  # type: ignore[no-untyped-def]
            if jobs[0].prompt == "8":
                raise KeyboardInterrupt
            return super().score(jobs)

    monkeypatch.setattr(local, "load_scorer", lambda *_, **__: Interrupted())
    source = write_csv(tmp_path, [(image.name, str(number)) for number in range(20)])
    output = tmp_path / "out.json"
    assert main(["batch", str(source), "--aspect", "quality", "--output", str(output), *FAKE]) == 130
    assert [record["prompt"] for record in json.loads(output.read_text())] == [str(number) for number in range(8)]
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 9


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"path,text\na,b\n", "must have the columns image_path and prompt"),
        (b"", "must have the columns"),
        (b"image_url,prompt\n", "`m3agiqa-submit csv` takes URLs"),
        (b"\xffimage_path,prompt\n", "no CSV file in UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_wrong_csv_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, said: str
) -> None:
    source = tmp_path / "in.csv"
    if content is not None:
        source.write_bytes(content)
    assert main(["batch", str(source), "--output", str(tmp_path / "out.json"), *FAKE]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err


def test_a_row_that_is_too_short_fails_alone(tmp_path: Path, image: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(f"prompt,image_path\nalone\na cat,{image.name}\n", encoding="utf-8-sig")
    output = tmp_path / "out.json"
    assert main(["batch", str(source), "--aspect", "quality", "--output", str(output), *FAKE]) == 0
    first, second = json.loads(output.read_text())
    assert first["error"].startswith("request_invalid: line 2")
    assert second["error"] is None


def test_a_place_that_cannot_be_written_to_is_found_before_the_work(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "none" / "out.json")
    source = write_csv(tmp_path, [(image.name, "")])
    assert main(["batch", str(source), "--output", output, *FAKE]) == 1
    assert main(["score", str(image), "--prompt", "", "--output", output, *FAKE]) == 1
    assert capsys.readouterr().err.count("error: cannot write") == 2


def test_an_aspect_the_model_does_not_have_is_said(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scorer = FakeScorer()
    scorer.aspects = (Aspect.QUALITY,)
    monkeypatch.setattr(local, "load_scorer", lambda *_, **__: scorer)
    assert main(["score", str(image), "--prompt", "", "--aspect", "authenticity", "--json"]) == 1
    assert "has no authenticity, only quality" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_download_fetches_checks_and_shows_what_it_locked(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    commits = [hub.push(BASE, BASE_FILES), hub.push(ADAPTER, ADAPTER_FILES), hub.push(HEADS, HEAD_FILES)]
    make_profile(tmp_path)

    assert main(["download", "--model", str(tmp_path / "lab.yaml")]) == 0

    out = capsys.readouterr().out
    for commit in commits:
        assert commit[:16] in out
    [lock] = (tmp_path / "cache/m3agiqa/locks").iterdir()
    assert str(lock) in out


def test_download_of_a_local_profile_has_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_local(tmp_path)
    assert main(["download", "--model", str(tmp_path / "lab.yaml")]) == 0
    assert "nothing to download" in capsys.readouterr().out


def test_download_works_through_the_environment_alone(hub: Hub, tmp_path: Path) -> None:
    hub.push(BASE, BASE_FILES)
    hub.push(ADAPTER, ADAPTER_FILES)
    hub.push(HEADS, HEAD_FILES)
    make_profile(tmp_path)
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "m3agiqa", "download", "--model", str(tmp_path / "lab.yaml")]

    refused = subprocess.run(
        command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert refused.stderr == "error: profile lab is not downloaded; run `m3agiqa download --model lab`\n"

    fetched = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert fetched.returncode == 0, fetched.stderr
    hub.seen.clear()
    again = subprocess.run(
        command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert hub.seen == []


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from m3agiqa.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print({'torch', 'PIL', 'yaml', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    for command in COMMANDS:
        assert command in done.stdout


def test_a_missing_package_is_named_with_its_extra(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(local, "load_scorer", missing)
    assert main(["score", str(image), "--prompt", "", *FAKE]) == 1
    assert capsys.readouterr().err == "error: torch is not installed: pip install 'm3agiqa[score]'\n"


def test_an_interruption_is_quiet(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "load_scorer", interrupt)
    assert main(["score", str(image), "--prompt", "", *FAKE]) == 130
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_weights_that_do_not_fit_are_a_failed_verdict(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CheckpointError("the head does not fit")

    monkeypatch.setattr(local, "load_scorer", refuse)
    assert main(["score", str(image), "--prompt", "", *FAKE, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "checkpoint_error"


def test_loading_shows_a_bar_on_a_terminal_alone(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", str(image), "--prompt", "", "--model", "mini", "--device", "cpu", "--json"]
    assert main(command) == 0
    assert capsys.readouterr().err == ""

    monkeypatch.setenv("FORCE_COLOR", "1")  # takes stderr for a terminal
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "loading" in captured.err
    assert json.loads(captured.out)["status"] == "scored"


def test_a_batch_has_the_size_that_was_asked_for(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given seven images with prompts of their own
    table = tmp_path / "images.csv"
    table.write_text("image_path,prompt\n" + "".join(f"{image.name},thing {number}\n" for number in range(7)))
    sizes = []
    score = FakeScorer.score

    def counted(self: FakeScorer, jobs: Sequence[Job]) -> list[Scores | Failure]:
        sizes.append(len(jobs))
        return score(self, jobs)

    monkeypatch.setattr(FakeScorer, "score", counted)
    # when
    output = tmp_path / "out.json"
    assert main(["batch", str(table), "--output", str(output), *FAKE, "--aspect", "quality", "--batch-size", "3"]) == 0
    # then
    assert sizes == [3, 3, 1]
    assert [row["prompt"] for row in json.loads(output.read_text())] == [f"thing {number}" for number in range(7)]


@pytest.mark.parametrize("size", ["0", "-1", "many"])
def test_a_batch_of_nothing_is_wrong_usage(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["batch", "x.csv", "--output", "y.json", "--batch-size", size])
    assert "is not a whole number" in capsys.readouterr().err
