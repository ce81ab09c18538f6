"""What Prometheus reads from real workers."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from m3agiqa.contract import Aspect
from m3agiqa.errors import ConfigError
from m3agiqa.queue import overview
from m3agiqa.queue.connection import Connection
from producers import Client, State
from tests.support import PATIENCE_S, Web, Worker, eventually, free_port, samples
from worker.runtime import Runtime
from worker.settings import Settings

Start = Callable[..., Worker]


def asked(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        return samples(answer.read().decode())


def tells(port: int, expected: dict[str, float], *names: str) -> bool:
    """Whether the samples of some metrics that are not 0 are those expected."""
    found = {name: value for name, value in asked(port).items() if name.startswith(names) and value}
    return found == expected


def policies(folder: Path) -> Path:
    """A folder with a policy that accepts every image, and one that rejects every image."""
    (folder / "policies").mkdir(parents=True)
    for name, limit in (("lenient", {"review_below": 0}), ("strict", {"reject_below": 5, "review_below": 5})):
        policy = {"name": name, "version": 1, "aspects": {"quality": limit}}
        (folder / "policies" / f"{name}.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    return folder


def test_what_prometheus_reads_is_what_was_sent(
    client: Client, redis_url: str, web: Web, worker_process: Start, tmp_path: Path
) -> None:
    # given a worker of each queue, an image that is missing, and receivers of which one recovers and one is gone
    ports = {"score": free_port(), "deliver": free_port()}
    worker_process("score", metrics_port=ports["score"], config_dir=policies(tmp_path / "ours"))
    worker_process("deliver", metrics_port=ports["deliver"], deliver_retry_delays_s="0.1")
    web.answers |= {"missing.png": [404], "recovers": [503, 200], "gone": [410]}

    def submit(image: str, prompt: str, policy: str, hook: str, ends_as: State) -> None:
        name = client.submit(image_url=web.url(image), prompt=prompt, policy=policy, callback_url=web.url(hook))
        eventually(lambda: client.state(name) == ends_as, f"{prompt} is {ends_as}")

    # when three images are accepted, one rejected, one failed, and one is asked for again
    submit("a.png", "one", "lenient", "hook", State.SETTLED)
    submit("a.png", "two", "lenient", "hook", State.SETTLED)
    submit("a.png", "three", "strict", "recovers", State.SETTLED)
    submit("missing.png", "four", "strict", "hook", State.SETTLED)
    submit("a.png", "one", "lenient", "gone", State.DEAD)
    # then the worker that scores tells so
    expected = {
        "m3agiqa_worker_images_total|accept|lenient|scored": 3,
        "m3agiqa_worker_images_total|reject|strict|scored": 1,
        "m3agiqa_worker_images_total||strict|failed": 1,
        "m3agiqa_worker_failures_total|fetch_refused": 1,
        "m3agiqa_score_cache_hits_total": 1,
        "m3agiqa_score_cache_misses_total": 3,
        **{f"m3agiqa_score_count|{aspect}|fake": 4 for aspect in Aspect},
        **{f"m3agiqa_stage_seconds_count|{stage}": 5 for stage in ("queue", "fetch", "publish")},
        **{f"m3agiqa_stage_seconds_count|{stage}": 4 for stage in ("open", "score")},
        **{f"m3agiqa_stage_seconds_count|{stage}": 3 for stage in ("prepare", "wait")},
        "m3agiqa_batch_images_sum": 3,
        "m3agiqa_batch_images_count": 3,
        "m3agiqa_batch_fill_ratio": 0.25,
        "m3agiqa_model_info|none|none|fake": 1,
        "m3agiqa_startup_check": 1,
        "m3agiqa_threads": 8,
    }
    names = ("m3agiqa_worker_", "m3agiqa_score_c", "m3agiqa_stage_seconds_count", "m3agiqa_batch_images_sum")
    names += ("m3agiqa_batch_images_count", "m3agiqa_batch_fill", "m3agiqa_model", "m3agiqa_startup")
    eventually(lambda: tells(ports["score"], expected, *names, "m3agiqa_threads"), "the numbers of what scores", 20)
    # and the one that delivers
    expected = {
        "m3agiqa_delivery_attempts_total|callback|delivered": 4,
        "m3agiqa_delivery_attempts_total|callback|retried": 1,
        "m3agiqa_delivery_attempts_total|callback|dead": 1,
        "m3agiqa_receiver_failures_total|127.0.0.1": 2,
        "m3agiqa_delivery_delay_seconds_count": 4,
        "m3agiqa_stage_seconds_count|deliver": 6,
        "m3agiqa_threads": 8,
    }
    names = ("m3agiqa_delivery_attempts", "m3agiqa_receiver", "m3agiqa_delivery_delay_seconds_count")
    names += ("m3agiqa_stage_seconds_count", "m3agiqa_model", "m3agiqa_startup")
    eventually(lambda: tells(ports["deliver"], expected, *names, "m3agiqa_threads"), "the numbers of what delivers", 20)
    # and Redis knows the receiver that failed, until it takes a verdict
    with closing(Connection(redis_url)) as connection:
        assert list(overview.read(connection).receivers_failing) == ["127.0.0.1"]
        submit("a.png", "one", "lenient", "hook", State.SETTLED)
        assert overview.read(connection).receivers_failing == {}


def test_a_port_that_is_taken_ends_the_worker_before_it_loads_a_model(redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(redis_url=redis_url, model="none-such", metrics_port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match="M3AGIQA_METRICS_PORT"):
            Runtime(settings, ["score"], 64)


def test_a_worker_that_ends_gives_its_port_back(redis_url: str) -> None:
    port = free_port()
    Runtime(Settings(redis_url=redis_url, metrics_port=port), ["deliver"], 64).close()
    with socket.create_server(("127.0.0.1", port)) as again:
        assert again.getsockname()[1] == port
