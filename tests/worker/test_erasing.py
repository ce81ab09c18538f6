"""A request went the whole way with real workers; then it is erased."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from redis import Redis

from m3agiqa.queue import keys
from producers import Client, State
from tests.m3agiqa.queue.support import traces
from tests.support import Web, Worker, eventually, png


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
