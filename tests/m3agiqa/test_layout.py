from __future__ import annotations

from datetime import UTC, datetime

import pytest

from m3agiqa.layout import redecided_beside, redecided_key, result_key

AT = datetime(2026, 2, 28, tzinfo=UTC)


@pytest.mark.parametrize("prefix", ["", "team/results/v1"])
@pytest.mark.parametrize("request_name", ["r", "acme/r"])
@pytest.mark.parametrize("again", ["", "!2"])
def test_verdicts_decided_anew_lie_beside_those_before(prefix: str, request_name: str, again: str) -> None:
    beside = redecided_beside(result_key(prefix, request_name + again, AT))
    assert redecided_key(prefix, request_name, AT, "d1").startswith(beside)
    assert not redecided_key(prefix, f"{request_name}2", AT, "d1").startswith(beside)
