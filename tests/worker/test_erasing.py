"""A request went the whole way with real workers; then it is erased."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from m3agiqa.queue import keys
from producers import Client, State
from tests.m3agiqa.queue.support import traces
from tests.support import Web, Worker, eventually, png
from worker.delivery.sender import Delivery, Sender
from worker.settings import Settings


def test_no_key_and_no_value_tells_of_a_request_that_was_erased(
    client: Client, redis: Redis, web: Web, worker_process: Callable[..., Worker]
) -> None:
    # given a request whose every part can be recognised, that was scored, laid aside, and given up at its receiver
    for queue in ("score", "deliver"):
        worker_process(queue, deliver_retry_delays_s="0.1", echo_request="true")
    redis.set(keys.SHADOW_SHARE, 1)
    web.images["canary-image.png"] = png(4711)
    web.answers["canary-hook"] = [410]
    asked = {
        "image_url": web.url("canary-image.png"),
        "prompt": "canary prompt",
        "callback_url": web.url("canary-hook"),
        "metadata": {"user": "canary user"},
        "request_id": "canary-id",
        "batch_id": "canary-batch",
    }
    client.submit_many([asked])
    verdict = client.result("canary-id", timeout=60)
    eventually(lambda: client.state("canary-id") == State.DEAD, "a dead letter")
    assert verdict.image is not None
    assert verdict.image.sha256 == hashlib.sha256(web.images["canary-image.png"]).hexdigest()
    # and one whose image came through Redis, whose verdict names the hash of its bytes
    image = png(4712)
    client.score(image=image, prompt="canary prompt", request_id="canary-bytes", timeout=60)
    digest = hashlib.sha256(image).hexdigest()
    assert keys.result("canary-bytes") in traces(redis, digest)
    # and entries under its id that were none, one of them cut
    redis.lpush(keys.inbox(3), '{"request_id": "canary-id", "prompt": "canary prompt"}', "canary-id " + "x" * 2**21)
    eventually(lambda: len(client.dead_letter_ids()) == 3, "three dead letters")
    # and another request, which goes on
    client.submit(image_url=web.url("other.png"), prompt="another", request_id="other")
    client.result("other", timeout=60)
    canaries = ("canary", verdict.image.sha256, next(iter(verdict.aspects.values())).description)
    found = traces(redis, *canaries)
    assert {keys.request("canary-id"), keys.result("canary-id"), keys.DEAD, keys.SHADOW} <= set(found)
    # when it is erased
    erased = client.erase("canary-id")
    assert client.erase("canary-bytes").scores
    # then nothing tells of them, though the other is as it was
    assert (erased.request, erased.verdict, erased.scores, len(erased.dead_letters)) == (True, True, True, 3)
    assert traces(redis, "canary", verdict.image.sha256, digest) == []
    assert client.result("other", timeout=0).status == "scored"
    assert client.state("other") == State.SETTLED


def test_no_bucket_tells_of_a_request_that_was_erased_with_its_objects(
    redis_url: str,
    redis: Redis,
    make_bucket: Callable[[str], Any],
    s3_endpoint: str,
    worker_process: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given a request whose image was uploaded, and whose verdict was written to a bucket and decided anew
    bucket = make_bucket("canaries")
    monkeypatch.setenv("M3AGIQA_S3_ENDPOINT_URL", s3_endpoint)
    places = {"fetch_s3_buckets": "canaries", "deliver_s3_buckets": "canaries", "s3_endpoint_url": s3_endpoint}
    for queue in ("score", "deliver"):
        worker_process(queue, echo_request="true", **places)
    image = png(4713)
    digest = hashlib.sha256(image).hexdigest()
    with Client(redis_url, upload="s3://canaries/new") as client:
        asked = {"image": image, "prompt": "canary prompt", "s3_uri": "s3://canaries/out", "request_id": "canary-id"}
        verdict = client.score(**asked, timeout=60)
        client.score(image=png(4714), prompt="another", s3_uri="s3://canaries/out", request_id="other", timeout=60)
        eventually(lambda: client.state("canary-id") == client.state("other") == State.SETTLED, "both delivered")
        sender = Sender(Settings(deliver_s3_buckets=("canaries",), s3_endpoint_url=s3_endpoint))
        anew = Delivery("canary-id", "s3", "s3://canaries/out", verdict.model_dump_json(), verdict.submitted_at)
        sender.send(replace(anew, redecided_by="0" * 12))
        assert len(holding(bucket, "canary", digest)) == 3
        # when it is erased with its objects
        erased = client.erase("canary-id", objects=True)
        # then nothing in any bucket or key tells of it, and the other is as it was
        assert holding(bucket, "canary", digest) == []
        assert traces(redis, "canary-id", "canary prompt", digest) == []
        assert len(holding(bucket, "other")) == 1
        assert len(list(bucket.objects.all())) == 2
        # and what went is said
        assert (len(erased.s3_removed), erased.s3_objects, erased.s3_image) == (3, (), None)


def test_no_bucket_tells_of_a_tenant_that_was_erased_with_its_objects(
    redis_url: str,
    redis: Redis,
    make_bucket: Callable[[str], Any],
    s3_endpoint: str,
    worker_process: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given requests of two tenants whose images were uploaded and whose verdicts were written to a bucket
    bucket = make_bucket("tenants")
    monkeypatch.setenv("M3AGIQA_S3_ENDPOINT_URL", s3_endpoint)
    places = {"fetch_s3_buckets": "tenants", "deliver_s3_buckets": "tenants", "s3_endpoint_url": s3_endpoint}
    for queue in ("score", "deliver"):
        worker_process(queue, echo_request="true", **places)
    with Client(redis_url, upload="s3://tenants/new") as client:
        for shade, tenant in enumerate(("canary", "canary", "other")):
            asked = {"image": png(100 + shade), "prompt": f"{tenant} prompt", "s3_uri": "s3://tenants/out"}
            request_id = f"id-{shade}"
            client.for_tenant(tenant).score(**asked, request_id=request_id, timeout=60)
            name = f"{tenant}/{request_id}"
            eventually(lambda name=name: client.state(name) == State.SETTLED, "delivered")
        assert len(list(bucket.objects.all())) == 6
        # when one of them is erased with its objects
        erased = client.erase_tenant("canary", objects=True)
        # then nothing tells of it, and the other is as it was
        assert (len(erased.s3_removed), erased.s3_objects, erased.s3_images) == (4, (), ())
        assert holding(bucket, "canary") == []
        assert traces(redis, "canary") == []
        assert len(list(bucket.objects.all())) == 2


def holding(bucket: Any, *canaries: str) -> list[str]:
    """Keys of the objects whose name or content holds a canary."""
    found = [(one.key, one.get()["Body"].read()) for one in bucket.objects.all()]
    return [key for key, data in found if any(word in key or word.encode() in data for word in canaries)]
