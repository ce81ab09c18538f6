"""Checks what container images are built from."""

from __future__ import annotations

import fnmatch
import json
import re

from tests.deploy.files import DOCKERFILE, INSTRUCTIONS, OURS, ROOT, SERVICES


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def stages() -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for instruction in INSTRUCTIONS:
        if instruction[0] == "FROM":
            current = found.setdefault(instruction[1].split(" AS ")[1], [])
        elif found:
            current.append(instruction)
    return found


def test_every_target_is_a_stage_that_does_not_run_as_root() -> None:
    for name in OURS:
        build = SERVICES[name]["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).is_file()
        users = [rest for instruction, rest in stages()[build["target"]] if instruction == "USER"]
        assert users[-1] == "m3agiqa"


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    sent = [line[1:] for line in lines if line.startswith("!")]
    assert lines[0] == "*"
    sources = [source for rest in arguments("COPY") if "--from" not in rest for source in rest.split()[:-1]]
    for source in sources:
        assert (ROOT / source).exists()
        assert source in sent
    assert set(sources) == set(sent)
    assert not any(fnmatch.fnmatch(".env", pattern) for pattern in sent)


def test_commands_are_lists_and_those_of_compose() -> None:
    for name in OURS:
        [command] = [rest for instruction, rest in stages()[SERVICES[name]["build"]["target"]] if instruction == "CMD"]
        assert json.loads(command) == SERVICES[name]["command"]


def test_what_is_cached_lies_in_the_volume() -> None:
    variables = dict(re.findall(r"(\w+)=(\S+)", " ".join(arguments("ENV"))))
    assert variables["HF_HOME"] == "/cache/huggingface"
    assert variables["XDG_CACHE_HOME"] == "/cache"
    assert arguments("VOLUME") == ["/cache"]
    assert "cache:/cache" in SERVICES["score"]["volumes"]


def test_every_install_is_pinned_by_the_constraints_file() -> None:
    installs = [command for command in re.split(r"&&|\n", "\n".join(arguments("RUN"))) if "pip install" in command]
    assert len(installs) == 5
    assert all("--constraint /build/constraints.txt" in command for command in installs)
    extras = set(re.findall(r"\.whl\)\[(\w+)\]", DOCKERFILE))
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", pyproject, flags=re.MULTILINE) for extra in extras)
