"""Checks the rules of deploy/prometheus by Prometheus' own tool: each alert fires for what it is made for, alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from m3agiqa import errors
from tests.deploy.files import ROOT
from tests.pages import anchors, metrics, table

RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "m3agiqa.json"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((RULES / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}

EXPORTER = 'up{job="m3agiqa-exporter", instance="exporter:9808"}'
#: A platform on a good day: what its series are, a value a minute, for an hour.
GOOD = {
    EXPORTER: "1x60",
    'up{job="m3agiqa-worker", instance="score:9809"}': "1x60",
    "m3agiqa_redis_up": "1x60",
    "m3agiqa_redis_noeviction": "1x60",
    "m3agiqa_redis_memory_bytes": "500x60",
    "m3agiqa_redis_memory_limit_bytes": "1000x60",
    'm3agiqa_workers{queue="score"}': "1x60",
    'm3agiqa_workers{queue="deliver"}': "1x60",
    'm3agiqa_queue_waiting{priority="3"}': "40x60",
    'm3agiqa_queue_oldest_age_seconds{priority="3"}': "12x60",
    "m3agiqa_deliveries_waiting": "3x60",
    "m3agiqa_tasks_owed": "60x60",
    "m3agiqa_tasks_overdue": "0x60",
    "m3agiqa_unreadable_entries": "0x60",
    "m3agiqa_receivers_failing": "0x60",
    'm3agiqa_verdicts_total{status="scored", decision="accept", policy="default"}': "0+100x60",
    'm3agiqa_verdicts_total{status="failed", decision="", policy="default"}': "0+2x60",
    'm3agiqa_failures_total{code="fetch_refused"}': "0+2x60",
    'm3agiqa_failures_total{code="internal_error"}': "0x60",
    'm3agiqa_failures_total{code="poison"}': "0x60",
    'm3agiqa_leases_lost_total{kind="score"}': "0x60",
    'm3agiqa_deliveries_total{kind="callback", outcome="delivered"}': "0+100x60",
    'm3agiqa_deliveries_total{kind="callback", outcome="dead"}': "0x60",
    "m3agiqa_dead_letters_dropped_total": "0x60",
    'm3agiqa_requests_refused_total{code="request_invalid"}': "0x60",
    'm3agiqa_stage_seconds_bucket{stage="fetch", le="0.5"}': "0+100x60",
    'm3agiqa_stage_seconds_bucket{stage="fetch", le="10"}': "0+100x60",
    'm3agiqa_stage_seconds_bucket{stage="fetch", le="+Inf"}': "0+100x60",
    'm3agiqa_stage_seconds_count{stage="fetch"}': "0+100x60",
    'm3agiqa_score_sum{aspect="quality", model="mini"}': "0+300x60",
    'm3agiqa_score_count{aspect="quality", model="mini"}': "0+100x60",
}
#: What differs on the day for which an alert is made.
BAD: dict[str, dict[str, str]] = {
    "ExporterDown": {EXPORTER: "1x40 0x20"},
    "RedisDown": {"m3agiqa_redis_up": "1x40 0x20"},
    "RedisEvicts": {"m3agiqa_redis_noeviction": "1x40 0x20"},
    "RedisNearlyFull": {"m3agiqa_redis_memory_bytes": "500x40 900x20"},
    "NoScoreWorker": {'m3agiqa_workers{queue="score"}': "1x40 0x20"},
    "NoDeliverWorker": {'m3agiqa_workers{queue="deliver"}': "1x40 0x20"},
    "WorkersLost": {'m3agiqa_leases_lost_total{kind="score"}': "0x50 1x10"},
    "WorkerDown": {'up{job="m3agiqa-worker", instance="score:9809"}': "1x40 0x20"},
    "QueueOld": {'m3agiqa_queue_oldest_age_seconds{priority="3"}': "12x40 400x20"},
    "TasksOverdue": {"m3agiqa_tasks_overdue": "0x40 7x20"},
    "PoisonTask": {'m3agiqa_failures_total{code="poison"}': "0x50 1x10"},
    "ReceiverFails": {"m3agiqa_receivers_failing": "0x40 1x20"},
    "DeliveriesDead": {'m3agiqa_deliveries_total{kind="callback", outcome="dead"}': "0x50 1x10"},
    "DeadLettersDropped": {"m3agiqa_dead_letters_dropped_total": "0x50 1x10"},
    "ScoringFails": {'m3agiqa_failures_total{code="internal_error"}': "0x50 5x10"},
    "ImagesUnavailable": {'m3agiqa_failures_total{code="fetch_refused"}': "0+50x60"},
    "ImagesSlow": {'m3agiqa_stage_seconds_bucket{stage="fetch", le="0.5"}': "0+50x60"},
    "RequestsRefused": {'m3agiqa_requests_refused_total{code="request_invalid"}': "0x50 20x10"},
    "UnreadableEntries": {"m3agiqa_unreadable_entries": "0x40 1x20"},
    "ScoresMoved": {
        # A day of threes, then a day on which every image gets a two.
        'm3agiqa_score_sum{aspect="quality", model="mini"}': "0+300x1440 432000+200x240",
        'm3agiqa_score_count{aspect="quality", model="mini"}': "0+100x1680",
    },
}
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")


def firing(series: dict[str, str], at: str, expected: list[str]) -> dict[str, Any]:
    """A test for promtool: which alerts fire, and no others."""
    return {
        "interval": "1m",
        "input_series": [{"series": _scraped(name), "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": at,
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in expected],
            }
        ],
    }


def _scraped(series: str) -> str:
    """A series as Prometheus has it: with labels that say where it comes from."""
    name, _, labels = series.rstrip("}").partition("{")
    return series if name == "up" else f'{name}{{{labels}{"," if labels else ""}job="j", instance="i"}}'


def complaints(folder: Path, *tests: dict[str, Any]) -> str:
    """What promtool complains about; empty if it found what was expected."""
    file = folder / "tests.yml"
    file.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(RULES / "recording.yml"), str(RULES / "alerts.yml")],
                "evaluation_interval": "1m",
                "tests": list(tests),
            }
        )
    )
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@promtool
def test_prometheus_accepts_the_configuration() -> None:
    done = subprocess.run(["promtool", "check", "config", RULES / "prometheus.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@promtool
def test_nothing_fires_on_a_good_day(tmp_path: Path) -> None:
    assert complaints(tmp_path, firing(GOOD, "55m", [])) == ""
    assert complaints(tmp_path, firing(GOOD, "55m", ["RedisDown"])), "a tool that agrees with anything proves nothing"


@promtool
@pytest.mark.parametrize("alert", BAD)
def test_an_alert_fires_alone_for_what_it_is_made_for(alert: str, tmp_path: Path) -> None:
    if alert == "ScoresMoved":  # it takes a day to move, and the others' series need not be that long
        series, at = {**BAD[alert], EXPORTER: "1x1700"}, "1670m"
    else:
        series, at = {**GOOD, **BAD[alert]}, "55m"
    assert complaints(tmp_path, firing(series, at, [alert])) == ""


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    assert ALERTS.keys() == BAD.keys()
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in {"page", "ticket"}, name
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}, name
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert not anchor or anchor in anchors(ROOT / page), name


def test_the_page_names_every_alert_with_its_severity() -> None:
    rows = table("| Alert | Severity | When |")
    documented = {name: severity for names, severity, _ in rows for name in re.findall(r"`(\w+)`", names)}
    assert documented == {name: rule["labels"]["severity"] for name, rule in ALERTS.items()}


def test_every_query_of_the_dashboard_is_one_of_known_metrics() -> None:
    # given what workers, the exporter and our rules show
    documented = {
        name for title in ("Metric", "Metric of a worker") for name in metrics(f"| {title} | Labels | Means |")
    }
    recorded = set(re.findall(r"record: (\S+)", (RULES / "recording.yml").read_text(encoding="utf-8")))
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(queries) > 30
    # then a panel asks for nothing else
    for query in queries:
        asked = set(re.findall(r"m3agiqa[\w:]+", query))
        plain = {re.sub("_(bucket|sum|count|total)$", "", name) if name not in documented else name for name in asked}
        assert plain <= documented | recorded, query


def test_alerts_know_codes_that_there_are() -> None:
    codes = {failure.code for failure in errors.tree()}
    named = re.findall(r'code=~?"([^"]+)"', (RULES / "alerts.yml").read_text(encoding="utf-8"))
    assert named
    for pattern in named:
        for part in pattern.split("|"):
            assert any(re.fullmatch(part, code) for code in codes), part
