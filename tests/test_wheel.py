"""What is installed from a wheel works far from the sources: configuration and the bundled checkpoint travel along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from m3agiqa.policy import Policy
from tests.support import ROOT
from tests.test_imports import import_all, modules

TIMEOUT_S = 180


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `pip install` puts there, of this project alone."""
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation, so that nothing is downloaded; hatchling is one of the development packages.
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    [wheel] = folder.glob("*.whl")
    pip("install", "--no-deps", "--no-index", "--target", folder / "site", wheel)
    return folder / "site"


def run(installed: Path, *arguments: object, status: int = 0) -> str:
    """Run Python outside the tree, with the installed packages in front of the tree's; its stdout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("M3AGIQA_")}
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=installed.parent,
        env=environment | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_the_installed_command_scores_with_the_bundled_checkpoint(installed: Path) -> None:
    image = installed / "worker" / "demo" / "pictures" / "boat.png"
    verdict = json.loads(run(installed, "-m", "m3agiqa", "score", image, "--prompt", "a boat", "--json"))
    assert verdict["status"] == "scored"
    assert set(verdict["aspects"]) == {"quality", "correspondence", "authenticity"}
    assert verdict["policy"] == Policy.load("default").ref.model_dump()


@pytest.mark.slow
def test_every_installed_module_imports_and_none_is_the_trees(installed: Path) -> None:
    names = [name for package in ("m3agiqa", "producers", "worker") for name in modules(package)]
    show = "\nimport sys\nfor name in sys.argv[1:]: print(sys.modules[name].__file__)"
    files = run(installed, "-c", import_all(names) + show, *names).splitlines()
    assert len(files) == len(names)
    assert all(Path(file).is_relative_to(installed) for file in files)


def test_profiles_policies_scripts_and_the_demos_images_are_installed(installed: Path) -> None:
    same = ("worker/demo/pictures", "m3agiqa/mini", "m3agiqa/queue/lua", "m3agiqa/report/page/static")
    for folder, place in [("cfg", "m3agiqa/cfg"), *zip(same, same, strict=True)]:
        files = {file.relative_to(ROOT / folder) for file in (ROOT / folder).rglob("*") if file.is_file()}
        there = {file.relative_to(installed / place) for file in (installed / place).rglob("*") if file.is_file()}
        assert files == there
    assert not (installed / "cfg").exists()


def test_what_hosts_load_is_installed_and_what_one_copies_is_not(installed: Path) -> None:
    there = {path.name for path in (installed / "producers").iterdir() if path.is_dir()}
    assert there - {"__pycache__"} == {"bulk", "integrations"}
    for file in ("diffusers.py", "comfyui/__init__.py", "webui/scripts/m3agiqa_gate.py"):
        assert (installed / "producers" / "integrations" / file).is_file()


def test_commands_and_licence_are_installed(installed: Path) -> None:
    assert {file.name for file in (installed / "bin").iterdir()} >= {"m3agiqa", "m3agiqa-submit"}
    [licence] = installed.glob("m3agiqa-*.dist-info/licenses/LICENSE")
    assert licence.read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("package", ["m3agiqa", "producers", "worker"])
def test_each_installed_package_says_that_it_has_types(installed: Path, package: str) -> None:
    assert (installed / package / "py.typed").is_file()


#: A backend's code, right but for two of its lines.
BACKEND = """
from m3agiqa.client import AsyncClient
from producers import Client, Verdict

client = Client("redis://localhost:6379/0")
request_id: str = client.submit(image_url="https://example.com/a.png", prompt="a cat", priority=0)
verdict: Verdict = client.result(request_id, timeout=60)

async def gallery(ids: list[str]) -> list[Verdict]:
    async with AsyncClient("redis://localhost:6379/0") as client:
        position: int | None = (await client.status_many(ids))[ids[0]].position
        await client.submit(image_url="https://example.com/a.png", prompt="a cat", colour="red")
        return [verdict async for verdict in client.as_completed(ids, timeout=60)]

verdict.decision.missing
"""


@pytest.mark.slow
def test_a_type_checker_sees_the_types_of_the_installed_client(installed: Path) -> None:
    (installed.parent / "backend.py").write_text(BACKEND)
    told = run(installed, "-m", "mypy", "--strict", "--cache-dir", installed.parent / "cache", "backend.py", status=1)
    assert [line for line in told.splitlines() if ": note: " not in line] == [
        'backend.py:12: error: Unexpected keyword argument "colour" for "submit" of "AsyncClient"  [call-arg]',
        'backend.py:15: error: "Decision" has no attribute "missing"  [attr-defined]',
        "Found 2 errors in 1 file (checked 1 source file)",
    ]
