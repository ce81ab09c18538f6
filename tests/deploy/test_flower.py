"""Flower as Compose starts it: what it shows of tasks, what it keeps, and that it only watches."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from producers import Client
from tests.deploy.files import REQUIRED, ROOT, SERVICES, environment
from tests.deploy.manifests import variables_of
from tests.deploy.stack import Stack, authorization, running, status
from tests.support import PATIENCE_S, eventually, serving
from worker.demo import show

USER = f"{REQUIRED['FLOWER_USER']}:{REQUIRED['FLOWER_PASSWORD']}"
PROMPT = "a lighthouse nobody may read about"


class Watched:
    """A stack with three tasks done: a picture scored and its verdict delivered, and one that is not there."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.start()
        self.stack.up("score")
        self.stack.up("deliver")

    def start(self) -> None:
        self.stack.up("flower")
        eventually(lambda: self.stack.healthy("flower"), "Flower is healthy")

    def stop(self) -> None:
        self.stack.processes["flower"].terminate()
        self.stack.processes["flower"].wait(PATIENCE_S)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.stack.ports['5555']}{path}"

    def page(self, path: str) -> str:
        request = urllib.request.Request(self.url(path), headers=authorization(USER))
        with urllib.request.urlopen(request, timeout=30) as response:
            return str(response.read().decode())

    def tasks(self) -> dict[str, dict[str, Any]]:
        return dict(json.loads(self.page("/api/tasks")))

    def done(self, *names: str) -> dict[str, dict[str, Any]]:
        """All tasks, once those of `names` have ended."""

        def ended() -> dict[str, dict[str, Any]]:
            tasks = self.tasks()
            return tasks if all(tasks.get(name, {}).get("state") == "SUCCESS" for name in names) else {}

        return eventually(ended, f"{names} have ended in Flower")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with serving() as web, running(tmp_path_factory.mktemp("flower"), web) as stack:
        web.answers["private/gone.png?token=secret"] = [404]
        stack.up("redis")
        with Client(stack.redis_url("producer", "REDIS_PRODUCER_PASSWORD")) as client:
            watched = Watched(stack)
            for name in ("good", "gone"):
                client.submit(
                    image_url=web.url(f"private/{name}.png?token=secret"),
                    prompt=PROMPT,
                    callback_url=web.url("private/hook") if name == "good" else None,
                    request_id=name,
                )
            watched.done("good", "gone", "good:callback")
        yield watched


def test_a_task_shows_its_request_decision_code_and_stages(watched: Watched) -> None:
    tasks = watched.tasks()
    assert set(tasks) == {"good", "gone", "good:callback"}
    scored = r"'(accept|review|reject) \(fetch \d+\.\d\d, open \d+\.\d\d, score \d+\.\d\d s\)'"
    assert re.fullmatch(scored, tasks["good"]["result"])
    assert re.fullmatch(r"'review, fetch_refused \(fetch \d+\.\d\d s\)'", tasks["gone"]["result"])
    assert re.fullmatch(r"'delivered \(deliver \d+\.\d\d s\)'", tasks["good:callback"]["result"])
    # and its page shows the columns
    page = watched.page("/tasks")
    assert re.findall(r'data-column="(\w+)"', page)[:3] == ["uuid", "state", "result"]


def test_neither_prompt_nor_url_is_shown_or_kept_and_a_restart_forgets_nothing(watched: Watched) -> None:
    # given what it serves, before and after a restart, without any worker to tell it again
    before = watched.tasks()
    shown = [watched.page(path) for path in ("/api/tasks", "/task/good", "/task/gone", "/workers?json=1", "/metrics")]
    watched.stop()
    kept = [file.read_bytes() for file in watched.stack.folder.glob("flower*") if file.suffix != ".log"]
    assert kept
    assert b"fetch_refused" in b"".join(kept)
    watched.start()
    assert watched.tasks() == before
    # then none of it says what a task is about
    for text in [*shown, *(part.decode("latin-1") for part in kept)]:
        assert not re.search("lighthouse|private|secret|token=", text)


@pytest.mark.parametrize("command", ["task/revoke/good", "worker/shutdown/any@host", "task/apply/m3agiqa.score"])
def test_flower_only_watches(watched: Watched, command: str) -> None:
    assert status(watched.url(f"/api/{command}"), USER, method="POST") == 403


def test_flower_is_the_same_wherever_it_is_started() -> None:
    def of_flower(variables: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in variables.items() if name.startswith("FLOWER_")}

    compose = of_flower(environment("flower", REQUIRED))
    assert of_flower(variables_of("flower")) == compose
    unit = (ROOT / "deploy" / "systemd" / "m3agiqa-flower.service").read_text(encoding="utf-8")
    written = dict(re.findall(r"^Environment=(FLOWER_\w+)=(.*)$", unit, re.MULTILINE))
    own = {"FLOWER_DB": "%S/m3agiqa-flower/flower"}
    assert written == {name: value for name, value in compose.items() if name != "FLOWER_BASIC_AUTH"} | own
    assert f"--tasks_columns={compose['FLOWER_TASKS_COLUMNS']}" in show.FLOWER
    # and what it keeps outlives its container
    folder = str(Path(compose["FLOWER_DB"]).parent)
    assert f"flower:{folder}" in SERVICES["flower"]["volumes"]
    assert "flower" in yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["volumes"]


def test_an_operator_unlocks_flower_by_a_variable() -> None:
    assert environment("flower", REQUIRED)["FLOWER_READ_ONLY"] == "true"
    assert environment("flower", {**REQUIRED, "FLOWER_READ_ONLY": "false"})["FLOWER_READ_ONLY"] == "false"
