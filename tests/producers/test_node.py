"""The package for Node: its own tests, against real workers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from m3agiqa.contract import VERSION
from tests.support import ROOT, Web, Worker, free_port

PACKAGE = ROOT / "producers" / "node"
SECRET = "whsec_" + "c2VjcmV0" * 5
#: Seconds for the registry of packages to answer.
REGISTRY_S = 120

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("npm") is None, reason="no npm here")]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of a user, with the package installed as its README says; its folder."""
    folder = tmp_path_factory.mktemp("node")
    copy = folder / "package"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("node_modules"))
    try:
        ended = subprocess.run(["npm", "ci"], cwd=copy, capture_output=True, text=True, timeout=REGISTRY_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("no registry of npm can be reached")
    if ended.returncode:
        assert "network" in ended.stderr or "ENOTFOUND" in ended.stderr or "ECONNREFUSED" in ended.stderr, ended.stderr
        pytest.skip("no registry of npm can be reached")
    # A package finds itself by its name, as its users do.
    return copy


def node(folder: Path, *command: str, **environment: str) -> str:
    ended = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_it_submits_waits_and_verifies(
    package: Path, redis_url: str, web: Web, worker_process: Callable[..., Worker]
) -> None:
    port = free_port()
    worker_process("score")
    worker_process("deliver", deliver_allow_hosts=f"127.0.0.1:{port}", webhook_secrets=SECRET)
    environment = {"REDIS_URL": redis_url, "IMAGE_URL": web.url("images"), "PORT": str(port), "SECRET": SECRET}
    told = node(package, "npm", "test", **environment)
    assert "# fail 0" in told
    assert "# skipped 0" in told


def programs(page: Path) -> list[str]:
    return [block.partition("```")[0] for block in page.read_text(encoding="utf-8").split("```js\n")[1:]]


@pytest.mark.parametrize("page", [PACKAGE / "README.md", ROOT / "docs" / "integration.md"], ids=lambda page: page.name)
def test_the_pages_program_prints_a_decision(
    page: Path, package: Path, redis_url: str, web: Web, worker_process: Callable[..., Worker]
) -> None:
    [program] = [text for text in programs(page) if "client.score" in text]
    worker_process("score")
    here = program.replace("redis://localhost:6379/0", redis_url).replace("https://images.example", web.url("images"))
    printed = node(package, "node", "--input-type=module", "--eval", here)
    assert printed.split()[0] in ("accept", "review", "reject")


def test_its_types_hold_for_both_kinds_of_modules(package: Path) -> None:
    # tsc prints what is wrong, and nothing else
    assert "error TS" not in node(package, "npm", "run", "types")


def test_what_is_published_is_whole(package: Path, tmp_path: Path) -> None:
    # given a plain project that installed what would be published
    packed = node(package, "npm", "pack", "--silent", "--pack-destination", str(tmp_path)).strip()
    node(tmp_path, "npm", "init", "--yes")
    node(tmp_path, "npm", "install", "--prefer-offline", packed)
    # then both kinds of programs find it
    assert node(tmp_path, "node", "-p", "require('m3agiqa').VERSION").strip() == VERSION
    (tmp_path / "x.mjs").write_text("import { VERSION } from 'm3agiqa'; console.log(VERSION);")
    assert node(tmp_path, "node", "x.mjs").strip() == VERSION
