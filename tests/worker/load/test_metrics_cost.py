from __future__ import annotations

import re
import urllib.request

import pytest

from tests.support import eventually
from worker.load import metrics_cost
from worker.load.measure import measure, queue_alone

pytestmark = pytest.mark.slow


def counted(url: str, metric: str) -> float:
    """The sum of a counter's values over all labels."""
    page = urllib.request.urlopen(url, timeout=10).read().decode()
    return sum(float(value) for value in re.findall(rf"^{metric}{{.*}} ([\d.e+]+)$", page, re.MULTILINE))


def test_the_workers_with_metrics_count_what_is_measured() -> None:
    with queue_alone(metrics=True) as platform:
        measure(platform, 5, None)
        score, deliver = platform.metrics_urls
        assert eventually(lambda: counted(score, "m3agiqa_worker_images_total") == 5, "5 images counted")
        assert eventually(lambda: counted(deliver, "m3agiqa_delivery_attempts_total") == 5, "5 deliveries counted")


def test_each_pair_is_a_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_cost, "_WARM_UP", 2)
    assert metrics_cost.main(["--pairs", "2", "--tasks", "3"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^│ [\d.]+ +│ [\d.]+ +│ [\d.]+ +│$", printed, re.MULTILINE)) == 2, printed
    assert re.search(r"mean ratio [\d.]+ \+- [\d.]+", printed)
