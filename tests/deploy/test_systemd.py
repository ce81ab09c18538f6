"""Checks the units: by systemd itself where it is installed, and against what Compose starts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.files import ROOT, SERVICES
from worker.ops.health import INTERVAL_S
from worker.settings import PREFIX, Settings

FOLDER = ROOT / "deploy" / "systemd"
UNITS = {re.split(r"[-@.]", path.name)[1]: path for path in sorted(FOLDER.glob("m3agiqa-*.service"))}
WORKERS = ("score", "deliver")
COMMENT = re.compile(r"^#.*\n", re.MULTILINE)

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


def values(name: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNITS[name].read_text(encoding="utf-8"), re.MULTILINE)


def verify(unit: Path) -> str:
    """What systemd-analyze complains about; the commands are those of this interpreter's folder."""
    unit.write_text(unit.read_text().replace("/opt/m3agiqa/.venv/bin", str(Path(sys.executable).parent)))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    return done.stdout + done.stderr


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_has_nothing_to_say_of_a_unit(name: str, tmp_path: Path) -> None:
    unit = Path(shutil.copy(UNITS[name], tmp_path))
    assert verify(unit) == ""
    unit.write_text(unit.read_text().replace("Restart=always", "Restart=sometimes"))
    assert "restart" in verify(unit), "a check that takes anything proves nothing"


def test_there_is_a_unit_for_every_part() -> None:
    assert set(UNITS) == {"score", "deliver", "exporter", "flower", "gateway"}
    assert UNITS["score"].name == "m3agiqa-score@.service"


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_what_compose_starts(name: str) -> None:
    [command] = values(name, "ExecStart")
    program, *words = command.split()
    # Workers of one host need names of their own; the others listen to this host alone.
    if name in WORKERS:
        *words, option, node = words
        assert option == "-n"
        assert node.endswith("@%%h")
    expected = [word.replace("0.0.0.0", "127.0.0.1") for word in SERVICES[name]["command"]]
    assert [Path(program).name, *words] == expected


def test_an_instance_has_one_gpu_and_shares_with_others_only_its_cache() -> None:
    assert "CUDA_VISIBLE_DEVICES=%i" in values("score", "Environment")
    [runtime], [health] = (
        values("score", "RuntimeDirectory"),
        [value for value in values("score", "Environment") if value.startswith("M3AGIQA_HEALTH_DIR=")],
    )
    assert "%i" in runtime
    assert health == f"M3AGIQA_HEALTH_DIR=%t/{runtime}"
    assert "-n score-%i@%%h" in values("score", "ExecStart")[0]


def test_a_batch_may_end_before_its_worker_is_killed() -> None:
    settings = Settings()
    drain_s = {
        "score": settings.fetch_timeout_s + settings.max_wait_ms / 1000 + settings.score_timeout_s,
        "deliver": settings.deliver_timeout_s,
    }
    for name in WORKERS:
        [stop] = values(name, "TimeoutStopSec")
        assert 60 * int(stop.removesuffix("min")) > drain_s[name]
        assert values(name, "KillMode") == ["mixed"]


@pytest.mark.parametrize("name", WORKERS)
def test_systemd_watches_the_heartbeats(name: str) -> None:
    assert values(name, "Type") == ["notify"]
    [watchdog] = values(name, "WatchdogSec")
    assert 60 * int(watchdog.removesuffix("min")) > 2 * INTERVAL_S


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_comes_back_has_a_limit_of_memory_and_may_do_little(name: str) -> None:
    assert values(name, "Restart") == ["always"]
    assert values(name, "User") == ["m3agiqa"]
    assert values(name, "NoNewPrivileges") == ["yes"]
    assert values(name, "ProtectSystem") == ["strict"]
    [memory] = values(name, "MemoryMax")
    if name in SERVICES:
        assert memory == SERVICES[name]["mem_limit"].upper()


@pytest.mark.parametrize("name", UNITS)
def test_settings_are_settings_and_secrets_come_from_a_file(name: str) -> None:
    # Workers of one host need ports of their own for their metrics.
    of_instance = ["-/etc/m3agiqa/score-%i.env"] if name == "score" else []
    assert values(name, "EnvironmentFile") == [f"/etc/m3agiqa/{name}.env", *of_instance]
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    text = COMMENT.sub("", UNITS[name].read_text(encoding="utf-8"))
    assert set(re.findall(rf"{PREFIX}\w+", text)) <= known
    assert not re.search("SECRET|PASSWORD|AUTH", text)
