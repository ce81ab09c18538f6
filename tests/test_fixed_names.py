"""Names that tools outside the repository use: whoever changes one breaks them, and one of these tests."""

from __future__ import annotations

import inspect
import re
import shlex
import tomllib
from dataclasses import fields
from typing import Any

import pytest
from kombu import Queue

import producers
from m3agiqa import cli, console
from m3agiqa.batch import Record
from m3agiqa.contract import (
    Aspect,
    AspectScore,
    Decision,
    Failure,
    ImageInfo,
    ModelInfo,
    PolicyRef,
    ScoreRequest,
    Verdict,
)
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.profile import ModelProfile
from m3agiqa.queue import keys
from m3agiqa.train.evaluation.evaluate import evaluate
from producers import Client
from producers import cli as submit_cli
from tests.support import ROOT
from worker.app import app, configuration
from worker.load import measure
from worker.load.throughput import Throughput
from worker.settings import Settings


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_make_has_its_targets() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"demo", "test", "check"} <= set(targets)


def test_the_commands_are_installed_under_their_names() -> None:
    assert {
        "m3agiqa": "m3agiqa.cli:main",
        "m3agiqa-submit": "producers.cli:main",
        "m3agiqa-gateway": "m3agiqa.gateway.__main__:main",
    }.items() <= project()["scripts"].items()


@pytest.mark.parametrize(
    "line",
    [
        "score a.png --prompt cat",
        "score a.png --prompt cat --aspect quality authenticity --model mini --policy default --device cpu --json",
        "score a.png --prompt cat --aspect correspondence --model lab.yaml --device cuda --output f.json",
        "batch a.csv --aspect quality --output f.json",
        "batch a.csv --aspect all --output f.json --model mini --policy default --device cpu",
        "evaluate folder --aspect quality",
        "evaluate folder --aspect quality --label mos --group prefix --model mini --device cpu --json --plot f.png",
        "evaluate folder --aspect quality --group generator",
        "predict folder --aspect quality --output f.csv",
        "predict folder --aspect quality --label mos --group prefix --model mini --device cpu --output f.csv",
        "bench --json",
        "bench --device cuda --images 1,8,32,64 --size 512 --tokens 100 --beams 3 --baseline --memory-limit-gib 9",
    ],
)
def test_m3agiqa_takes_its_options(line: str) -> None:
    assert cli.parser().parse_args(shlex.split(line)).command == line.partition(" ")[0]


def test_an_image_is_scored_for_all_aspects_by_the_bundled_model_if_nothing_else_is_said() -> None:
    arguments = cli.parser().parse_args(["score", "a.png", "--prompt", "cat"])
    assert (arguments.aspect, arguments.policy) == (None, "default")
    assert [str(aspect) for aspect in Aspect] == ["quality", "correspondence", "authenticity"]


def test_commands_end_with_their_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert (console.FAILED, console.INTERRUPTED) == (1, 130)
    for main in (cli.main, submit_cli.main):
        with pytest.raises(SystemExit) as wrong_usage:
            main(["no-such-command"])
        assert wrong_usage.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "line",
    [
        "--redis-url redis://host/0 --max-queued 9 state id --history",
        "one https://host/a.png --prompt cat",
        "one s3://b/a.png --prompt cat --callback-url https://host/ --s3-uri s3://b/p --aspect quality"
        " --aspect authenticity --policy default --priority 0 --request-id id --expires-in 60 --wait 5 --json",
        "csv a.csv",
        "result id --wait 5 --json",
        "export",
        "cancel id other",
        "purge",
        "dead list --json",
        "dead show id --json",
        "dead replay id other",
        "dead replay --all",
        "dead drop --all",
    ],
)
def test_m3agiqa_submit_takes_its_options(line: str) -> None:
    assert callable(submit_cli.parser().parse_args(shlex.split(line)).run)


def test_the_load_of_a_model_is_measured_by_its_options_and_told_by_its_fields() -> None:
    line = "--model mini --pictures 10 --max-batch 8 --max-wait-ms 50 --json"
    arguments = measure.parser().parse_args(line.split())
    assert (arguments.model, arguments.pictures, arguments.max_batch, arguments.max_wait_ms) == ("mini", 10, 8, 50)
    assert {"pictures", "pictures_per_s", "engine_per_s"} <= {field.name for field in fields(Throughput)}


def test_requests_are_pushed_on_the_lists_of_the_inbox_and_tasks_bear_their_names() -> None:
    assert [keys.inbox(priority) for priority in keys.PRIORITIES] == [f"m3agiqa:inbox:{step}" for step in (0, 3, 6, 9)]
    assert [keys.wakeups("score", priority) for priority in keys.PRIORITIES] == [
        "score",
        "score:3",
        "score:6",
        "score:9",
    ]
    assert {"m3agiqa.score", "m3agiqa.deliver"} <= set(app.tasks)
    queues: list[Queue] = configuration(Settings())["task_queues"]
    assert [queue.name for queue in queues] == ["score", "deliver"]


def test_the_client_keeps_its_signatures() -> None:
    assert set(producers.__all__) == {"AsyncClient", "Client", "ScoreRequest", "State", "Verdict"}
    assert signature(Client) == {
        "redis_url": ...,
        "tenant": None,
        "max_queued": 100_000,
        "upload": None,
        "inline_max_bytes": 8 * 2**20,
        "inline_budget_bytes": 512 * 2**20,
        "inline_ttl_s": 3600,
        "tenants": None,
    }
    assert signature(Client.submit) == {
        "image_url": None,
        "image": None,
        "prompt": ...,
        "callback_url": None,
        "s3_uri": None,
        "aspects": None,
        "policy": None,
        "priority": 3,
        "request_id": None,
        "metadata": None,
        "expires_at": None,
        "batch_id": None,
        "retry_failed": False,
    }
    assert signature(Client.submit_many) == {"requests": ...}
    assert signature(Client.result) == {"request_id": ..., "timeout": None}


def signature(function: Any) -> dict[str, object]:
    """Parameters and their defaults; `...` stands for none."""
    parameters = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
    return {each.name: ... if each.default is each.empty else each.default for each in parameters}


#: Fields on the wire and in files, by what has them. More may come.
FIELDS: dict[Any, set[str]] = {
    ScoreRequest: {
        *("version", "image_url", "prompt", "callback_url", "s3_uri", "aspects", "policy", "priority", "request_id"),
        *("metadata", "submitted_at", "expires_at"),
    },
    Verdict: {
        *(
            "version",
            "request_id",
            "status",
            "decision",
            "reasons",
            "aspects",
            "policy",
            "model",
            "image",
            "timings_ms",
        ),
        *("batch", "attempt", "submitted_at", "scored_at", "metadata", "error"),
    },
    AspectScore: {"score", "rating", "description"},
    Failure: {"code", "message", "retryable"},
    PolicyRef: {"name", "version", "digest"},
    ModelInfo: {"profile", "base", "adapters", "heads", "revisions", "dtype", "engine", "trained"},
    ImageInfo: {"sha256", "width", "height", "format", "frames"},
    ModelProfile: {"name", "base", "dtype", "trained", "describe", "aspects"},
    Policy: {"name", "version", "aspects", "on_missing", "on_failure"},
    Thresholds: {"reject_below", "review_below"},
    Record: {"image_path", "prompt", "aspect", "description", "score", "rating", "error"},
}


@pytest.mark.parametrize("model", FIELDS, ids=lambda model: model.__name__)
def test_what_is_written_and_read_keeps_its_fields(model: Any) -> None:
    assert FIELDS[model] <= set(model.model_fields)


def test_the_columns_of_a_batch_begin_as_they_did() -> None:
    assert list(Record.model_fields)[:6] == ["image_path", "prompt", "aspect", "description", "score", "rating"]


def test_decisions_are_called_as_they_were() -> None:
    assert [str(decision) for decision in Decision] == ["accept", "review", "reject"]


def test_an_evaluation_has_its_figures() -> None:
    figures = {"srcc", "plcc", "krcc", "srcc_within_groups"}
    found = evaluate([])
    assert {"n", "failed", *figures, *(f"{name}_ci95" for name in figures)} <= found.keys()


#: Settings of a worker, each a variable with the prefix in front. More may come.
SETTINGS = """
REDIS_URL REDIS_USERNAME REDIS_PASSWORD REDIS_SILENCE_S MODEL DEVICE POLICY CONFIG_DIR MAX_BATCH MAX_WAIT_MS
SCORE_TIMEOUT_S SCORE_RETRY_DELAYS_S LEASE_S VISIBILITY_TIMEOUT_S MAX_LOST_RUNS SCORE_CACHE_TTL_S FETCH_TIMEOUT_S
FETCH_FIRST_BYTE_S FETCH_MAX_BYTES FETCH_PORTS FETCH_ALLOW_HOSTS FETCH_RETRY_MISSING FETCH_S3_BUCKETS MAX_PIXELS
DECODERS DECODE_TIMEOUT_S PICTURE_BUDGET_MIB WEBHOOK_SECRETS WEBHOOK_HOST_SECRETS WEBHOOK_HOST_HEADERS DELIVER_TIMEOUT_S
DELIVER_RETRY_DELAYS_S DELIVER_MAX_PER_HOST DELIVER_ALLOW_HOSTS DELIVER_S3_BUCKETS SLOW_SHARE USER_AGENT S3_ENDPOINT_URL
S3_ADDRESSING_STYLE MEMORY_GROWTH_LIMIT_MIB REMOTE_CONTROL RESULT_TTL_S DEAD_LETTERS_MIB SENTRY_DSN SENTRY_ENVIRONMENT
HEALTH_DIR
"""


def test_every_setting_is_read_from_its_variable() -> None:
    assert Settings.model_config["env_prefix"] == "M3AGIQA_"
    assert {name.lower() for name in SETTINGS.split()} <= set(Settings.model_fields)
