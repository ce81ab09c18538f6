"""The pages that people read, taken apart: prose, blocks of code, what stands in backticks, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path

from tests.support import ROOT

README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
DOCS = ROOT / "docs"
CHANGELOG = DOCS / "changelog.md"
#: Pages whose links must lead somewhere.
LINKED = [
    *(README, CONTRIBUTING, ROOT / "SECURITY.md"),
    *sorted(DOCS.rglob("*.md")),
    *(ROOT / "deploy" / "redis" / "README.md", ROOT / "tests" / "golden" / "README.md"),
    *(ROOT / "m3agiqa" / "mini" / "README.md", ROOT / "worker" / "demo" / "pictures" / "LICENCES.md"),
]
#: The pages that the code is held to. The changelog names what is no more.
PAGES = [page for page in LINKED if page != CHANGELOG and page.parent in (ROOT, DOCS)]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_VARIABLE = re.compile(r"[A-Z0-9_]+=")


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _BLOCK.sub("", read(page))


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def blocks(language: str, pages: list[Path] = PAGES) -> list[str]:
    return [text for page in pages for name, text in _BLOCK.findall(read(page)) if name == language]


TEXT = "\n".join(map(read, PAGES))
#: What stands in backticks outside of blocks.
SPANS = [span for page in PAGES for span in re.findall(r"`([^`\n]+)`", prose(page))]


def shell_lines() -> list[str]:
    """Every command, whether in a block or in running text."""
    return [*re.sub(r"\\\n\s*", "", "".join(blocks("sh"))).splitlines(), *SPANS]


def commands_in_blocks() -> Iterator[list[str]]:
    """The words of each command in the shell's blocks, without comments and the variables in front."""
    lines = iter(re.sub(r"\\\n", "", "".join(blocks("sh"))).splitlines())
    for line in lines:
        while (words := _split(line)) is None:
            line += "\n" + next(lines)  # an open quote goes on in the next line
        while words:
            end = next((index for index, word in enumerate(words) if word in ("|", "&&")), len(words))
            if command := list(dropwhile(_VARIABLE.match, words[:end])):
                yield command
            words = words[end + 1 :]


def _split(line: str) -> list[str] | None:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return None


def metrics(title: str) -> dict[str, set[str]]:
    """Labels of the metrics in a table, by their names without `_total`; several may share a row."""
    return {
        name.removesuffix("_total"): set(re.findall(r"`(\w+)`", labels))
        for names, labels, _ in table(title)
        for name in re.findall(r"`(\w+)`", names)
    }


def table(title: str) -> list[list[str]]:
    """Cells of the rows of the table whose first line is `title`, which may stand on several pages."""
    found = re.findall(rf"^{re.escape(title)}\n\|[-|]+\|\n((?:\|.*\n)*)", TEXT + "\n", re.MULTILINE)
    rows = [row for block in found for row in block.splitlines()]
    return [[cell.strip() for cell in re.split(r" \|(?= )", row.strip("|"))] for row in rows]
