"""The README and the other pages show nothing that is not there."""

from __future__ import annotations

import csv
import importlib
import re
import subprocess
import sys
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
import yaml
from PIL import Image

from m3agiqa import config, environment, errors
from m3agiqa.contract import ScoreRequest, Verdict
from m3agiqa.gateway import settings as gateway
from m3agiqa.policy import Policy
from m3agiqa.queue.ledger import State
from m3agiqa.tenants import Tenant
from producers import Client
from tests.pages import (
    CONTRIBUTING,
    DOCS,
    LINKED,
    PAGES,
    README,
    SPANS,
    TEXT,
    anchors,
    blocks,
    prose,
    read,
    shell_lines,
    table,
)
from tests.support import ROOT
from worker import settings

README_LINES = 200
EXAMPLES = ROOT / "producers" / "examples"


@cache
def files() -> list[str]:
    """Every file of the project that people write, as a path from its root."""
    made = {"build", "dist", "node_modules"}
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in made and path.name[0] != "."]
    found = chain(ROOT.glob("*"), *(folder.rglob("*") for folder in folders))
    return [path.relative_to(ROOT).as_posix() for path in found if path.is_file() and path.suffix != ".pyc"]


# --- names -------------------------------------------------------------------------------------------------------


def test_every_variable_is_a_setting() -> None:
    known = {settings.PREFIX + name.upper() for name in settings.Settings.model_fields}
    known |= {gateway.PREFIX + name.upper() for name in gateway.Settings.model_fields}
    assert set(re.findall(r"M3AGIQA_[A-Z0-9_]+", TEXT)) <= known


def test_every_path_exists() -> None:
    top = {path.name for path in ROOT.iterdir()}
    words = {word for line in [*shell_lines(), *blocks("js")] for word in re.split(r"[\s,;\"']+", line)}
    paths = {word.removeprefix("./").rstrip(".").replace("ASPECT", "quality") for word in words}
    ours = {path for path in paths if path.partition("/")[0] in top and not path.startswith(".venv")}
    assert {"cfg/policies/", "worker/demo/pictures/rocket.webp", "constraints.txt", "tests/golden/"} <= ours
    assert [path for path in ours if not (ROOT / path).exists()] == []


def test_every_file_in_a_diagram_exists() -> None:
    named = set(re.findall(r"[\w/-]+\.(?:py|lua|md|yaml|yml)\b", "\n".join(blocks(""))))
    assert {"m3agiqa/client/sync.py", "lua/admit.lua"} <= named
    known = [f"/{file}" for file in files()]
    assert [name for name in named if not any(file.endswith(f"/{name}") for file in known)] == []


def test_every_name_that_is_to_be_searched_for_is_there() -> None:
    named = set(re.findall(r"`([\w.]+)` in\s`([\w./-]+)`", prose(CONTRIBUTING)))
    assert ("LOSSES", "m3agiqa/train/head/") in named
    for name, place in named - {("NAME", "folder/")}:
        sources = [file for file in files() if file.startswith(place) and file.endswith(".py")]
        assert any(re.search(rf"\b{re.escape(name)}\b", read(ROOT / file)) for file in sources), (name, place)


def test_every_dotted_name_exists() -> None:
    named = {span for span in SPANS if re.fullmatch(r"(m3agiqa|producers|worker)(\.[A-Za-z_]\w*)+", span)}
    named |= {f"producers.{span}" for span in SPANS if re.fullmatch(r"Client\.\w+", span)}
    assert {"m3agiqa.profile.Describe", "producers.Client.result", "worker.load"} <= named
    for name in named - {"m3agiqa.score", "m3agiqa.deliver"}:
        resolve(name)


def resolve(name: str) -> object:
    """What a dotted name stands for, after importing what must be."""
    top, *rest = name.split(".")
    found, path = importlib.import_module(top), top
    for part in rest:
        path = f"{path}.{part}"
        if not hasattr(found, part):
            importlib.import_module(path)
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]*)\)", read(page)):
        if target.startswith("https://"):
            continue
        path, has_anchor, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert file.is_relative_to(ROOT), target
        assert not has_anchor or anchor in anchors(file), target


def test_every_page_that_a_file_names_exists() -> None:
    named = set()
    for file in files():
        if Path(file).suffix in (".py", ".yaml", ".yml", ".service", ".md", ".example", ".toml", ".mjs", ".sh"):
            named |= set(re.findall(r"\bdocs/\w+\.md", read(ROOT / file))) if file != "docs/changelog.md" else set()
    assert "docs/settings.md" in named
    assert [page for page in named if not (ROOT / page).is_file()] == []


# --- what a page must hold ---------------------------------------------------------------------------------------


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(read(README).splitlines()) < README_LINES
    targets = re.findall(r"^- \[[^]]+\]\(([^)]+)\): ", read(README), re.MULTILINE)
    assert set(targets) == {"CONTRIBUTING.md", "SECURITY.md", *(f"docs/{page.name}" for page in DOCS.glob("*.md"))}


def test_the_tree_is_the_projects() -> None:
    [tree] = [text for text in blocks("") if text.startswith("m3agiqa/ ")]
    folders = set(re.findall(r"^(\w+)/ ", tree, re.MULTILINE))
    assert folders == {path.partition("/")[0] for path in files() if "/" in path}


def test_the_settings_are_those_of_the_worker() -> None:
    assert TEXT.count(settings.table()) == 1, "put what `python -m worker.settings` prints into docs/settings.md"


def test_the_settings_of_the_gateway_are_its_own() -> None:
    shown = environment.table(gateway.Settings, gateway.PREFIX)
    assert TEXT.count(shown) == 1, "put what `python -m m3agiqa.gateway.settings` prints into docs/gateway.md"


def test_the_failures_are_those_of_the_tree() -> None:
    rows = table("| Code | Means | Retryable | Where it shows |")
    shown = {code.strip("`"): retryable == "yes" for code, _, retryable, _ in rows}
    assert len(rows) == len(shown)
    ours = errors.tree()[1:]
    known = {error.code: error.retryable for error in ours}
    leaves = {error.code for error in ours if not error.__subclasses__()}
    assert shown.items() <= known.items()
    assert leaves <= shown.keys()


def test_the_fields_are_those_of_requests_and_verdicts() -> None:
    shown = [field.strip("`") for field, _ in table("| Field | Meaning |")]
    assert shown == [*ScoreRequest.model_fields, *Verdict.model_fields]


def test_the_states_are_those_of_a_request() -> None:
    [diagram] = [text for text in blocks("") if text.startswith(" submitted ")]
    first = diagram.splitlines()[0]
    assert [*re.findall(r"[a-z]+", first), "cancelled", "dead"] == [str(state) for state in State]
    assert "dead (" in diagram
    assert "cancelled (" in diagram


def test_the_profiles_are_those_there_are() -> None:
    assert sorted(name.strip("`") for name, _ in table("| Profile | What |")) == config.names("models")


def test_every_promise_of_safety_names_its_test() -> None:
    rows = table("| What holds | Where | Shown by |")
    assert len(rows) > 20
    for _, where, test in rows:
        assert (ROOT / where.strip("`")).exists(), where
        assert re.fullmatch(r"`tests/[\w/]+/test_\w+\.py`|`tests/test_\w+\.py`", test), test
        assert (ROOT / test.strip("`")).is_file(), test


def test_the_verdict_is_one() -> None:
    [verdict] = blocks("json")
    parsed = Verdict.model_validate_json(verdict)
    assert parsed.model is not None
    assert parsed.model.trained
    assert list(yaml.safe_load(verdict)) == list(Verdict.model_fields)


def measurements() -> str:
    """`m3agiqa/bench/bench.csv` as docs/performance.md shows it."""
    lines = [
        "| GPU | what | side | beams | images in a batch | of at most | seconds | images a second | device memory |",
        "|---" * 9 + "|",
    ]
    with (ROOT / "m3agiqa" / "bench" / "bench.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            cells = [row["machine"].split()[1], row["what"], row["size"], row["beams"], row["images"]]
            cells += [row["largest_batch"] or "-"]
            cells += [f"{float(row['seconds']):.2f}", f"{float(row['images_per_s']):.2f}"]
            limit = f", limited to {float(row['memory_limit_gib']):.1f}" if row["memory_limit_gib"] else ""
            cells.append(f"{float(row['memory_gib']):.1f} GiB{limit}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_measurements_are_those_that_were_kept() -> None:
    assert TEXT.count(measurements()) == 1, f"put this into docs/performance.md:\n{measurements()}"


def test_the_policy_is_the_default_one() -> None:
    shown = [yaml.safe_load(block) for block in blocks("yaml")]
    tenants = [one for one in shown if {"images_per_day", "max_waiting"} & one.keys()]
    policy, *parts = [one for one in shown if one not in tenants]
    assert all(Tenant.model_validate(tenant) for tenant in tenants)
    assert Policy.model_validate(policy) == Policy.load("default")
    # and what is shown of others fits into it
    for part in parts:
        assert Policy.model_validate({**policy, **part}) != Policy.load("default")


# --- programs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", blocks("python"))
def test_python_is_python(program: str) -> None:
    assert compile(program, "a page", "exec")


@pytest.mark.parametrize("name", ["receive.py", "receive.mjs", "backend.py"])
def test_an_example_that_is_shown_is_the_file(name: str) -> None:
    # Those files run in tests/producers/test_examples.py.
    assert [*blocks("python"), *blocks("js")].count(read(EXAMPLES / name)) == 1


@pytest.mark.slow
def test_the_program_that_scores_without_a_queue_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    [program] = [program for program in blocks("python") if "Scorer.load" in program]
    exec(compile(program, "a page", "exec"), {})  # noqa: S102
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["quality", "correspondence", "authenticity"]


@pytest.mark.slow
def test_the_picture_of_two_verdicts_is_what_its_program_draws(tmp_path: Path) -> None:
    # Its pixels depend on the fonts' version and the model's floats.
    drawn = tmp_path / "verdict.png"
    subprocess.run([sys.executable, "docs/verdict.py", str(drawn)], cwd=ROOT, check=True, timeout=240)
    with Image.open(drawn) as made, Image.open(DOCS / "verdict.png") as shown:
        assert (made.size, made.mode) == (shown.size, shown.mode)
    assert (DOCS / "verdict.png").stat().st_size < 100_000


def test_pages_of_code_were_found() -> None:
    assert {README, CONTRIBUTING, DOCS / "integration.md"} <= set(PAGES)
    assert Client.__name__ in TEXT
