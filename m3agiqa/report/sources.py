"""Where verdicts lie: a file, what Redis still keeps, or a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from m3agiqa.contract import Verdict
from m3agiqa.report import judged as files
from m3agiqa.report import submitted
from m3agiqa.report.judged import Judged

#: For `--help` of commands that take a source.
HELP = (
    "a file of verdicts or of `m3agiqa batch` (JSON or JSONL), redis://... for what Redis still keeps (sentinel://... "
    "too), or s3://bucket/prefix"
)
REQUESTS_HELP = (
    "what was submitted, F.csv or JSONL with request_id: where verdicts do not say image, prompt or receiver"
)

_S3 = "s3://"
_REDIS = ("redis://", "rediss://", "valkey://", "valkeys://", "unix://", "sentinel://", "sentinels://")


def judged(source: str, requests: Path | None = None) -> Iterator[Judged]:
    """Every image of a source, one by one, in no particular order.

    Args:
        source: path of a file as `m3agiqa.report.judged.read` takes it; the URL of Redis; or s3://bucket/prefix, below
            which workers wrote verdicts.
        requests: file of what was submitted, which tells image and prompt where verdicts do not.

    Raises:
        DataError: a file is unreadable, or holds something else; says where. What cannot be read in Redis or in a
            bucket is left out, and the log says so.
        ConfigError, QueueUnavailable, FetchError: Redis or the bucket cannot be read.
    """
    known = submitted.read(requests) if requests is not None else {}
    for item in _unjoined(source):
        request = known.get(item.id)
        yield item if request is None else _joined(item, request)


def _unjoined(source: str) -> Iterator[Judged]:
    if source.startswith(_S3):
        verdicts = _in_bucket(source)
    elif source.startswith(_REDIS):
        verdicts = _in_redis(source)
    else:
        return files.read(Path(source))
    return map(files.from_verdict, verdicts)


def _in_redis(url: str) -> Iterator[Verdict]:
    from m3agiqa.client import Client
    from m3agiqa.queue.address import Address

    with Client(Address.parse(url).within_environment().url) as client:
        yield from client.results()


def _in_bucket(url: str) -> Iterator[Verdict]:
    from worker.delivery.stored import verdicts
    from worker.settings import Settings

    return verdicts(Settings.from_environment(), url)


def _joined(item: Judged, request: submitted.Submitted) -> Judged:
    return replace(
        item,
        image=item.image if item.image is not None else request.image_url,
        prompt=item.prompt if item.prompt is not None else request.prompt,
    )
