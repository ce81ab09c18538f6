"""Which module imports which, read from their sources."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path


def modules(root: Path, packages: Iterable[str]) -> dict[str, Path]:
    """Every module below `root` in `packages`, by its name. Examples are programs, and need what they show; scripts are
    loaded by other programs, and need these.
    """
    files = [file for package in packages for file in sorted((root / package).rglob("*.py"))]
    files = [file for file in files if file.parent.name not in ("examples", "scripts")]
    names = [".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return dict(zip(names, files, strict=True))


def imported(file: Path, known: Iterable[str], *, later: bool) -> set[str]:
    """What a module imports as it is imported itself, and with `later` also what its functions import.

    Nothing that only type checkers see. Of `from a import b`, it is `a.b` if that is one of the `known` modules.
    """
    found = set()
    for statement in _statements(ast.parse(file.read_text(encoding="utf-8")).body, later=later):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{file} imports relatively"
            within = {f"{statement.module}.{alias.name}" for alias in statement.names}
            found |= (within & set(known)) | ({str(statement.module)} if within - set(known) else set())
    return found


def graph(known: dict[str, Path], *, later: bool = False) -> dict[str, set[str]]:
    """Every module to those of them that it imports.

    Importing `a.b` runs `a` first, but a module inside of `a` finds it begun already, and depends on it only where it
    names it.
    """
    edges: dict[str, set[str]] = {}
    for name, file in known.items():
        named = imported(file, known, later=later)
        around = {parent for other in named for parent in _parents(other) if not name.startswith(f"{parent}.")}
        edges[name] = ((named | around) & known.keys()) - {name}
    return edges


def rooms(edges: dict[str, set[str]], known: dict[str, Path]) -> dict[str, set[str]]:
    """Every package to those that its modules import; a module that lies in a top-level package counts as a package."""

    def room(name: str) -> str:
        package = name if known[name].name == "__init__.py" else name.rpartition(".")[0]
        return package if "." in package else name

    found: dict[str, set[str]] = {}
    for name, others in edges.items():
        found.setdefault(room(name), set()).update(map(room, others))
    return {name: others - {name} for name, others in found.items()}


def reached(edges: dict[str, set[str]], names: Iterable[str]) -> set[str]:
    """`names` and whatever they import, and so on."""
    found: set[str] = set()
    left = list(names)
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            left += edges[name]
    return found


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _statements(body: Sequence[ast.stmt], *, later: bool) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and not later:
            continue
        parts = [getattr(statement, part, []) for part in ("body", "orelse", "finalbody")]
        if isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING"):
            parts = [statement.orelse]
        parts += [part.body for part in (*getattr(statement, "handlers", []), *getattr(statement, "cases", []))]
        for part in parts:
            yield from _statements(part, later=later)
