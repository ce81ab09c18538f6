"""Judged images as tests of the report need them, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from m3agiqa.batch import Record
from m3agiqa.contract import Aspect, AspectScore, Decision, Rating
from m3agiqa.policy import Policy
from m3agiqa.report.judged import Judged, from_records


def records(name: str, *, model: str = "old@1", sha: str | None = None, **scores: float) -> list[Record]:
    """The rows of one image in `m3agiqa batch`, decided by the default policy."""
    aspects = tuple(Aspect(aspect) for aspect in scores)
    known = {aspect: _score(scores[aspect]) for aspect in aspects}
    decision, reasons = Policy.load("default").decide(known, aspects)
    return [
        Record(
            image_path=name,
            prompt="x",
            aspect=aspect,
            description="",
            score=scores[aspect],
            rating=known[aspect].rating,
            error=None,
            decision=decision,
            reasons=reasons,
            aspects=aspects,
            model=model,
            policy="default@0",
            image_sha256=sha,
        )
        for aspect in aspects
    ]


def image(
    name: str, *, decision: Decision | None = None, model: str = "old@1", sha: str | None = None, **scores: float
) -> Judged:
    [judged] = from_records(records(name, model=model, sha=sha, **scores))
    return judged if decision is None else Judged(**{**judged.__dict__, "decision": decision})


def write_batch(path: Path, rows: Iterable[Record]) -> Path:
    path.write_text(json.dumps([row.model_dump(mode="json") for row in rows]))
    return path


def write_labels(path: Path, labels: Mapping[str, str]) -> Path:
    path.write_text("id,label\n" + "".join(f"{name},{label}\n" for name, label in labels.items()))
    return path


def some_images(count: int, *, model: str = "old@1", shift: float = 0.0) -> tuple[list[Record], dict[str, str]]:
    """Rows of images of which each second is bad and scores low, and their labels."""
    random = np.random.default_rng(0)
    rows, labels = [], {}
    for number in range(count):
        is_good = number % 2 == 0
        quality = float(np.clip(random.normal(3.5 if is_good else 1.0, 0.5) + shift, 0, 5))
        rows += records(f"{number}.png", model=model, quality=quality, correspondence=min(5.0, quality + 0.5))
        labels[f"{number}.png"] = "accept" if is_good else "reject"
    return rows, labels


def _score(value: float) -> AspectScore:
    return AspectScore(score=value, rating=Rating.from_score(value), description="", slices=0, cut_tokens=0)
