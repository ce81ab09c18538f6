"""The README and the pages under docs/ show nothing that is not there."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from m3agiqa import cli as library_cli
from m3agiqa import config
from m3agiqa.contract import Verdict
from m3agiqa.errors import M3AGIQAError
from m3agiqa.policy import Policy
from producers import cli as producers_cli
from tests.support import ROOT
from worker import settings

README = ROOT / "README.md"
CHANGELOG = ROOT / "docs" / "changelog.md"
LINKED = [README, *sorted((ROOT / "docs").rglob("*.md"))]
# The changelog names what is no more, so only its links are looked at.
PAGES = [page for page in LINKED if page != CHANGELOG]
README_LINES = 200


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """Without blocks of code."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)


TEXT = "\n".join(map(read, PAGES))
BLOCKS = [
    found for page in PAGES for found in re.findall(r"^```(\w*)\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE)
]
SPANS = [span for page in PAGES for span in re.findall(r"`([^`\n]+)`", prose(page))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROGRAMS = {"m3agiqa": library_cli.main, "m3agiqa-submit": producers_cli.main}


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def shell_lines() -> list[str]:
    """Every command, whether in a block or in running text."""
    joined = "".join(blocks("sh")).replace("\\\n", " ")
    return [*joined.splitlines(), *SPANS]


def commands() -> Iterator[tuple[str, list[str], list[str]]]:
    """Program, subcommands and options of every use of our command lines."""
    for line in shell_lines():
        for found in re.finditer(r"(?:^|[\s/;|])(m3agiqa(?:-submit)?)((?: [a-z][a-z-]*)+)(.*)", line):
            program, words, rest = found.groups()
            depth = 2 if words.split()[0] in ("data", "dead") else 1
            yield program, words.split()[:depth], re.findall(r"(?<!\S)--[a-z][a-z-]*", rest)


def subclasses(root: type[M3AGIQAError]) -> Iterator[type[M3AGIQAError]]:
    for child in root.__subclasses__():
        yield child
        yield from subclasses(child)


def test_the_settings_are_those_of_the_worker() -> None:
    assert TEXT.count(settings.table()) == 1, "put what `python -m worker.settings` prints into docs/settings.md"


def test_every_variable_is_a_setting() -> None:
    known = {settings.PREFIX + name.upper() for name in settings.Settings.model_fields}
    assert set(re.findall(r"M3AGIQA_[A-Z0-9_]+", TEXT)) <= known


def test_every_make_target_and_variable_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    used = [re.match(r"make ([a-z]+)(?: ([A-Z_]+)=)?", line) for line in shell_lines()]
    assert {match[1] for match in used if match} <= targets
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z]+)$", read(README), re.MULTILINE))
    for match in used:
        assert match is None or match[2] is None or f"\n{match[2]} ?=" in MAKEFILE


@pytest.mark.parametrize(("program", "words", "options"), list(commands()))
def test_every_command_and_option_exists(
    program: str, words: list[str], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[program]([*words, "--help"])
    assert ended.value.code == 0
    known = re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)
    assert set(options) <= set(known)


def test_commands_were_found() -> None:
    found = {(program, words[0]) for program, words, _ in commands()}
    assert {("m3agiqa", "score"), ("m3agiqa", "batch"), ("m3agiqa-submit", "csv"), ("m3agiqa-submit", "dead")} <= found


def test_every_module_that_is_run_exists() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", TEXT))
    assert {"worker.settings", "worker.ops.health"} <= modules
    assert all(importlib.util.find_spec(module) for module in modules)
    assert all("-A worker.app" in line for line in shell_lines() if "bin/celery " in line)


def test_every_path_exists() -> None:
    top = {path.name for path in ROOT.iterdir()}
    words = {word for line in [*shell_lines(), *blocks("js")] for word in re.split(r"[\s,;\"']+", line)}
    paths = {word.removeprefix("./").rstrip(".").replace("ASPECT", "quality") for word in words}
    ours = {path for path in paths if path.partition("/")[0] in top and not path.startswith(".venv")}
    assert {"cfg/policies/", "worker/demo/pictures/rocket.webp", "constraints.txt", "tests/golden/"} <= ours
    assert [path for path in ours if not (ROOT / path).exists()] == []


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]*)\)", read(page)):
        if target.startswith("https://"):
            continue
        path, has_anchor, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert file.is_relative_to(ROOT), target
        assert not has_anchor or anchor in anchors(file), target


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(read(README).splitlines()) < README_LINES
    targets = re.findall(r"^- \[[^]]+\]\(([^)]+)\): ", read(README), re.MULTILINE)
    assert set(targets) == {page.relative_to(ROOT).as_posix() for page in LINKED if page != README}


def test_the_tree_is_the_projects() -> None:
    [tree] = [text for text in blocks("") if text.startswith("m3agiqa/ ")]
    folders = re.findall(r"^(\w+)/ ", tree, re.MULTILINE)
    assert len(folders) > 4
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_the_failures_are_those_of_the_tree() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*?\| (yes|no) \|", TEXT, re.MULTILINE)
    shown = {code: retryable == "yes" for code, retryable in rows}
    assert len(rows) == len(shown)
    known = {error.code: error.retryable for error in subclasses(M3AGIQAError)}
    leaves = {error.code for error in subclasses(M3AGIQAError) if not error.__subclasses__()}
    assert shown.items() <= known.items()
    assert leaves <= shown.keys()


def test_the_profiles_are_those_there_are() -> None:
    table = TEXT.partition("| Profile | What |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == config.names("models")


def test_the_verdict_is_one() -> None:
    [verdict] = blocks("json")
    parsed = Verdict.model_validate_json(verdict)
    assert parsed.model is not None
    assert parsed.model.trained


def measurements() -> str:
    """`m3agiqa/bench/bench.csv` as docs/models.md shows it."""
    lines = [
        "| what | side | beams | images in a batch | of at most | seconds | images a second | device memory |",
        "|---" * 8 + "|",
    ]
    with (ROOT / "m3agiqa" / "bench" / "bench.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            cells = [row["what"], row["size"], row["beams"], row["images"], row["largest_batch"] or "-"]
            cells += [f"{float(row['seconds']):.2f}", f"{float(row['images_per_s']):.2f}"]
            limit = f", limited to {float(row['memory_limit_gib']):.1f}" if row["memory_limit_gib"] else ""
            cells.append(f"{float(row['memory_gib']):.1f} GiB{limit}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_measurements_are_those_that_were_kept() -> None:
    assert TEXT.count(measurements()) == 1, f"put this into docs/models.md:\n{measurements()}"


def test_the_policy_is_the_default_one() -> None:
    [policy] = blocks("yaml")
    assert Policy.model_validate(yaml.safe_load(policy)) == Policy.load("default")


@pytest.mark.parametrize("program", blocks("python"))
def test_python_is_python(program: str) -> None:
    assert compile(program, "a page", "exec")


@pytest.mark.parametrize("program", blocks("sh"))
def test_shell_quotes_are_closed(program: str) -> None:
    assert shlex.split(program.replace("\\\n", " "), comments=True)
