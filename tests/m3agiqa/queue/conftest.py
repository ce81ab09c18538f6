from __future__ import annotations

from collections.abc import Iterator

import pytest

from m3agiqa.queue.ledger import Ledger


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """A worker's view of an empty Redis; a lease lasts 1,000 s, and the third run that is lost is one too many."""
    ledger = Ledger(redis_url, lease_s=1000, longest_run_s=1000, max_lost_runs=2, result_ttl_s=100)
    yield ledger
    ledger.close()
