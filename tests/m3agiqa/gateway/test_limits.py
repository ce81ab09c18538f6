from __future__ import annotations

import pytest

from m3agiqa.gateway.limits import Places, Rates
from m3agiqa.gateway.problems import Problem


def test_a_bucket_fills_as_time_passes() -> None:
    # given two a second, and three at once
    now = 0.0
    rates = Rates(2, 3, lambda: now)
    for _ in range(3):
        rates.take("acme")
    # when a fourth comes at once, it is told when there is room; another tenant has a bucket of its own
    with pytest.raises(Problem) as refused:
        rates.take("acme")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 0.5)
    rates.take("umbra")
    # then a refusal costs nothing, and a long pause fills no more than the bucket
    now = 0.5
    rates.take("acme")
    now = 1000
    for _ in range(3):
        rates.take("acme")
    with pytest.raises(Problem):
        rates.take("acme")


def test_places_are_given_back_whatever_happens() -> None:
    places = Places("waits", total=2, each=1)
    with pytest.raises(ValueError, match="x"), places.one("acme"):
        raise ValueError("x")
    with places.one("acme"), places.one("umbra"):
        for tenant, status in (("acme", 429), ("third", 503)):
            with pytest.raises(Problem) as refused, places.one(tenant):
                pass
            assert refused.value.status == status
    with places.one("third"):
        pass
