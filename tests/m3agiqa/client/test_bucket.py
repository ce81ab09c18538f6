"""Images in a bucket: moto's S3, and another one that is not made for tests of Python."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.client.bucket import Bucket
from m3agiqa.errors import ConfigError, UploadError
from m3agiqa.queue import inbox, keys
from tests.support import eventually, free_port, png
from worker.score.fetch import Fetcher
from worker.settings import Settings

DATA = png(7)
DIGEST = hashlib.sha256(DATA).hexdigest()
KEY = f"new/{DIGEST[:2]}/{DIGEST}.png"
#: Seconds for the registry of packages to answer.
REGISTRY_S = 120


@pytest.fixture
def moto(make_bucket: Callable[[str], Any], s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    make_bucket("uploads")
    monkeypatch.setenv("M3AGIQA_S3_ENDPOINT_URL", s3_endpoint)
    return s3_endpoint


@pytest.fixture
def s3rver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 in JavaScript, from its registry, with a bucket `uploads`."""
    if (npm := shutil.which("npm")) is None:
        pytest.skip("no npm here")
    install = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path), "s3rver@3.7.1"]
    try:
        installed = subprocess.run(install, capture_output=True, text=True, timeout=REGISTRY_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("no registry of npm can be reached")
    if installed.returncode:
        pytest.skip("no registry of npm can be reached")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    for name, value in {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("M3AGIQA_S3_ENDPOINT_URL", endpoint)
    program = [str(tmp_path / "node_modules/.bin/s3rver"), "-d", str(tmp_path / "data"), "-a", "127.0.0.1"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [*program, "-p", str(port), "--configure-bucket", "uploads"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        eventually(lambda: listed(endpoint) is not None, "s3rver")
        yield endpoint
    finally:
        server.kill()
        server.wait()


def listed(endpoint: str) -> list[str] | None:
    """Keys in the bucket; None if the service does not answer yet."""
    s3 = boto3.session.Session().client("s3", endpoint_url=endpoint)
    try:
        return [item["Key"] for item in s3.list_objects_v2(Bucket="uploads").get("Contents", [])]
    except (EndpointConnectionError, ClientError):
        return None


@pytest.mark.parametrize("service", ["moto", pytest.param("s3rver", marks=pytest.mark.slow)])
def test_images_are_uploaded_once_by_their_content_and_read_by_workers(
    service: str, request: pytest.FixtureRequest, redis_url: str, redis: Redis
) -> None:
    endpoint = request.getfixturevalue(service)
    # when an image is submitted twice, and another one, larger than a part of any kind
    large = bytes(9_000_000)
    with Client(redis_url, upload="s3://uploads/new/") as client:
        for image in (DATA, DATA, large):
            client.submit(image=image, prompt="")
    # then the bucket has each once, Redis has none, and a worker reads what was sent
    assert listed(endpoint) == sorted([KEY, f"new/{(other := hashlib.sha256(large).hexdigest())[:2]}/{other}.bin"])
    assert list(redis.scan_iter(match="*image*")) == []
    asked = [inbox.parse(text, 3).image_url for text in redis.lrange(keys.inbox(3), 0, -1)]
    assert asked[1:] == [f"s3://uploads/{KEY}"] * 2
    fetcher = Fetcher(Settings(s3_endpoint_url=endpoint, fetch_s3_buckets=("uploads",)))
    assert [fetcher.fetch(url) for url in asked] == [large, DATA, DATA]


def test_the_place_may_come_from_the_environment(moto: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGIQA_UPLOAD", "s3://uploads")
    with Client(redis_url) as client:
        client.submit(image=DATA, prompt="")
    [found] = listed(moto) or []
    assert found == KEY.removeprefix("new/")


def test_who_lacks_boto3_is_told_what_to_install_once_it_is_needed(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with Client(redis_url, upload="s3://uploads") as client:
        client.submit(image_url="https://host/a.png", prompt="")
        with pytest.raises(ConfigError, match=r"m3agiqa\[upload\]"):
            client.submit(image=DATA, prompt="")
    assert redis.llen(keys.inbox(3)) == 1


@pytest.mark.parametrize("place", ["uploads", "https://host/uploads", "s3://", "s3://a/../b"])
def test_what_is_no_place_is_a_mistake_of_configuration(place: str, redis_url: str) -> None:
    with pytest.raises(ConfigError, match="M3AGIQA_UPLOAD"):
        Client(redis_url, upload=place)


def test_a_bucket_that_does_not_take_an_image_leaves_nothing_in_the_queue(
    moto: str, redis_url: str, redis: Redis, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # when there is no such bucket
    with Client(redis_url, upload="s3://missing") as client:
        with pytest.raises(UploadError, match="s3://missing answered NoSuchBucket"):
            client.submit(image=DATA, prompt="")
        # and when some were enqueued before
        monkeypatch.setattr("m3agiqa.client.submitting.CHUNK", 1)
        with pytest.raises(UploadError, match="1 enqueued before"):
            client.submit_many([{"image_url": "https://host/a.png", "prompt": ""}, {"image": DATA, "prompt": ""}])
    # and when nobody answers
    monkeypatch.setenv("M3AGIQA_S3_ENDPOINT_URL", f"http://127.0.0.1:{unused_port}")
    with (
        Client(redis_url, upload="s3://uploads") as client,
        pytest.raises(UploadError, match=r"cannot be written to \(EndpointConnectionError\)"),
    ):
        client.submit(image=DATA, prompt="")
    # then no request names what is not there
    assert redis.llen(keys.inbox(3)) == 1


@pytest.mark.parametrize(
    ("begin", "extension"),
    [
        (b"\xff\xd8\xff\xe0", "jpg"),
        (b"\x89PNG\r\n", "png"),
        (b"GIF89a", "gif"),
        (b"RIFF1234WEBPVP8 ", "webp"),
        (b"1234ftypavif", "avif"),
        (b"text", "bin"),
    ],
)
def test_an_object_has_the_extension_of_its_kind(begin: bytes, extension: str) -> None:
    assert Bucket("s3://b").url(begin).endswith(f".{extension}")


def test_what_cannot_be_removed_is_named(
    moto: str, redis_url: str, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    # given a request that is known in the ledger, whose verdict went to a bucket that is gone
    image = "s3://elsewhere/own.png"
    with Client(redis_url, upload="s3://uploads/new") as client:
        client.submit(image_url=image, prompt="", request_id="r")
        written = "s3://gone/out/results/v1/dt=2026-11-28/r.json"
        client.cancel("r")
        redis.hset(keys.request("r"), "objects", f"{written}\n")
        # when it is erased with its objects
        erased = client.erase("r", objects=True)
    # then what is still there is named, and an image that nobody uploaded here stays
    assert (erased.s3_objects, erased.s3_image, erased.s3_removed) == ((written,), image, ())
    assert "cannot be removed: NoSuchBucket" in caplog.text
