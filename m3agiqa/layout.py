"""Where verdicts lie in a bucket, below the prefix that a request names."""

from __future__ import annotations

from datetime import UTC, datetime

#: Folders of verdicts, and of those that were decided anew.
RESULTS, REDECIDED = "results/v1/", "redecided/v1/"


def result_key(prefix: str, name: str, submitted_at: datetime) -> str:
    """Key of the verdict `name`: the request's name, with "!" and a number after it for each later try.

    It has the date of submission (UTC), so that a repeated delivery has the same.
    """
    return below(prefix, f"{RESULTS}{_day(submitted_at)}/{name}.json")


def redecided_key(prefix: str, request: str, submitted_at: datetime, digest: str) -> str:
    """Key of the verdict that the policy of this digest decided anew, for the request of this name."""
    return below(prefix, f"{REDECIDED}{_day(submitted_at)}/{request}/{digest}.json")


def redecided_beside(result_key: str) -> str:
    """What the keys of all verdicts begin with that were decided anew from the one of this key."""
    prefix, _, rest = result_key.rpartition(RESULTS)
    return f"{prefix}{REDECIDED}{rest.removesuffix('.json').partition('!')[0]}/"


def below(prefix: str, key: str) -> str:
    return f"{prefix.strip('/')}/{key}" if prefix.strip("/") else key


def _day(submitted_at: datetime) -> str:
    return f"dt={submitted_at.astimezone(UTC).date().isoformat()}"
