"""The bundled model, both workers, a real receiver, a real S3 API, and Flower's page in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
import requests
from standardwebhooks import Webhook

from m3agiqa.contract import Aspect, Verdict
from producers import Client
from tests.support import Worker, eventually, free_port
from tests.worker.conftest import Answer, Handler, HttpServer
from worker.demo.show import IMAGES

Start = Callable[..., Worker]
SECRET = "whsec_" + "c2VjcmV0" * 5
PROMPT = "a lighthouse nobody may read about"


def gallery(handler: Handler) -> None:
    if handler.command == "GET":
        handler.reply(200, (IMAGES / handler.path.rpartition("/")[2]).read_bytes())
    else:
        handler.reply(204)


@pytest.fixture
def platform(serve: Callable[[Answer], HttpServer]) -> HttpServer:
    """A generation platform: serves its images, receives callbacks."""
    return serve(gallery)


@pytest.fixture
def flower(redis_url: str, tmp_path: Path) -> Iterator[str]:
    """Flower's address."""
    port = free_port()
    with (tmp_path / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker.app", "flower", "--address=127.0.0.1", f"--port={port}"],
            env={**os.environ, "M3AGIQA_REDIS_URL": redis_url},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return requests.get(f"{address}/healthcheck", timeout=5).ok
        except requests.ConnectionError:
            return False

    eventually(up, "Flower")
    yield address
    process.terminate()
    process.wait(30)


@pytest.fixture
def browser(tmp_path: Path) -> Callable[[str], str]:
    """Loads a page in headless Chromium, its scripts run; returns its DOM."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")

    def load(url: str) -> str:
        quiet = ["background-networking", "component-update", "sync", "quic", "gpu"]
        return subprocess.run(
            [
                chromium,
                *["--headless", "--no-sandbox", "--no-first-run", f"--user-data-dir={tmp_path / 'browser'}"],
                *[f"--disable-{part}" for part in quiet],
                *["--virtual-time-budget=8000", "--dump-dom", url],
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
            timeout=120,
        ).stdout

    return load


@pytest.mark.usefixtures("aws")
def test_images_are_scored_delivered_and_watched(
    client: Client,
    platform: HttpServer,
    s3_endpoint: str,
    flower: str,
    browser: Callable[[str], str],
    worker_process: Start,
) -> None:
    # given both workers, with the bundled model
    s3 = boto3.client("s3", endpoint_url=s3_endpoint)
    s3.create_bucket(Bucket="whole-way")
    settings = {
        "model": "mini",
        "device": "cpu",
        "webhook_secrets": SECRET,
        "fetch_allow_hosts": platform.netloc,
        "deliver_allow_hosts": platform.netloc,
        "deliver_s3_buckets": "whole-way",
        "s3_endpoint_url": s3_endpoint,
    }
    worker_process("score", **settings)
    worker_process("deliver", **settings)
    # when images are submitted, a bad one among them
    ids = [
        client.submit(
            image_url=f"{platform.url}/private-path/{name}",
            prompt=PROMPT,
            callback_url=f"{platform.url}/callbacks?token=private",
            s3_uri="s3://whole-way/verdicts",
        )
        for name in ("cat.webp", "boat.png", "manifest.csv")
    ]
    # then every verdict is called back with a signature that verifies
    callbacks = eventually(
        lambda: (got := [each for each in platform.received if each.method == "POST"])[2:] and got, "three callbacks"
    )
    for callback in callbacks:
        Webhook(SECRET).verify(callback.body, callback.headers)
    verdicts = {verdict.request_id: verdict for verdict in (Verdict.model_validate_json(c.body) for c in callbacks)}
    assert set(verdicts) == set(ids)
    for request_id in ids[:2]:
        assert verdicts[request_id].status == "scored"
        assert set(verdicts[request_id].aspects) == set(Aspect)
    bad = verdicts[ids[2]]
    assert (bad.status, bad.decision, bad.error and bad.error.code) == ("failed", "review", "image_unreadable")

    # and written to S3 with the same bytes
    def objects() -> dict[str, bytes] | None:
        keys = [each["Key"] for each in s3.list_objects_v2(Bucket="whole-way").get("Contents", [])]
        found = {key: s3.get_object(Bucket="whole-way", Key=key)["Body"].read() for key in keys}
        return found if len(found) == 3 else None

    written = eventually(objects, "three objects")
    for callback in callbacks:
        verdict = Verdict.model_validate_json(callback.body)
        day = f"{verdict.submitted_at:%Y-%m-%d}"
        assert written[f"verdicts/results/v1/dt={day}/{verdict.request_id}.json"] == callback.body

    # and Flower shows each task, and nothing of what it is about
    def finished() -> str | None:
        page = browser(f"{flower}/tasks")
        return page if len(re.findall(r">SUCCESS<", page)) == 9 else None

    page = eventually(finished, "nine finished tasks in Flower")
    for request_id in ids:
        assert request_id in page
    details = browser(f"{flower}/task/{ids[0]}")
    assert "m3agiqa.score" in details
    for shown in (page, details):
        assert not re.search(r"lighthouse|private|cat\.webp|token", shown)
        assert platform.netloc not in shown


def test_the_demo_ends_by_itself_with_a_verdict_for_every_image() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "worker.demo"], capture_output=True, text=True, check=False, timeout=280
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "16 of 16 callbacks came, every signature verified" in finished.stdout
    quality = {name: float(score) for name, score in re.findall(r"(\S+\.\w+) .*?(\d\.\d\d)", finished.stdout)}
    assert quality["cat-blurred.jpg"] < quality["cat.webp"]
    assert quality["rocket-noisy.webp"] < quality["rocket.webp"]
    for shown in (
        "answered 404",
        "not an image",
        "truncated",
        "not a public address",
    ):
        assert shown in finished.stdout
    everyone = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "@demo" not in everyone
