"""Draws the panels of the dashboard, as Grafana would, from what Prometheus answers to their queries."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from typing import Any

from tests.monitoring.watched import DEPLOY, FASTER, Watched, faster

DASHBOARD = DEPLOY / "grafana" / "dashboards" / "m3agiqa.json"
_COLUMNS = 4


def all_panels() -> list[dict[str, Any]]:
    """Panels that show something: not the titles of rows."""
    return [panel for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row"]


def draw(watched: Watched, since: float, file: Path) -> list[str]:
    """Draw all panels into one picture, from `since` (Unix time) until now. Returns titles of those without data."""
    import matplotlib.pyplot as plt

    panels, empty, until = all_panels(), [], time.time()
    step_s = max(2.0, (until - since) / 250)
    rows = math.ceil(len(panels) / _COLUMNS)
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(5 * _COLUMNS, 3 * rows), layout="constrained")
    for axis, panel in zip(axes.flat, panels, strict=False):
        axis.set_title(panel["title"], fontsize=9)
        axis.tick_params(labelsize=7)
        found = False
        for target in panel["targets"]:
            query = faster(target["expr"])
            series = watched.ask("query_range", query=query, start=since, end=until, step=step_s)
            found = _lines(axis, series["result"], target.get("legendFormat", ""), since) or found
        if found:
            axis.legend(fontsize=5, loc="upper left")
        else:
            empty.append(panel["title"])
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.suptitle(f"{DASHBOARD.name}, ranges divided by {FASTER}; x: minutes")
    figure.savefig(file, dpi=70)
    plt.close(figure)
    return empty


def _lines(axis: Any, result: list[dict[str, Any]], legend: str, since: float) -> bool:
    for series in result:
        label = legend
        for name in re.findall(r"\{\{(\w+)\}\}", legend):
            label = label.replace(f"{{{{{name}}}}}", series["metric"].get(name, ""))
        points = [((float(at) - since) / 60, float(value)) for at, value in series["values"] if value != "NaN"]
        axis.plot(*zip(*points, strict=True) if points else ([], []), label=label or "value", linewidth=1)
    return any(series["values"] for series in result)
