"""Images with scores, as tests of the page need them; and its scripts, run by Node."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

import pytest
from PIL import Image

from m3agiqa.contract import Aspect, AspectScore, Decision, Failure, Rating
from m3agiqa.policy import Policy
from m3agiqa.report.judged import Judged

STATIC = resources.files("m3agiqa.report.page") / "static"

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node here")


def scored(score: float, description: str = "") -> AspectScore:
    return AspectScore(score=score, rating=Rating.from_score(score), description=description, slices=0, cut_tokens=0)


def judged(name: str, quality: float | None = 3.0, **more: Any) -> Judged:
    """An image with a score for its quality, or what `more` says; None is an image that failed."""
    fields: dict[str, Any] = {
        "id": name,
        "decision": Decision.ACCEPT,
        "reasons": (),
        "scores": {} if quality is None else {Aspect.QUALITY: scored(quality)},
        "failure": Failure(code="fetch_refused", message="404", retryable=False) if quality is None else None,
        "prompt": f"the prompt of {name}",
    }
    found = Judged(**(fields | more))
    return replace(found, asked=tuple(found.scores))


def many(count: int, policy: Policy, seed: int = 0) -> list[Judged]:
    """Images with random scores, decided by `policy`; each twentieth failed."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        failure = None
        scores = {aspect: scored(min(5.0, max(0.0, draw.gauss(2.5, 1))), f"{aspect} of {number}") for aspect in Aspect}
        if number % 20 == 19:
            scores, failure = {}, Failure(code="image_unreadable", message="truncated", retryable=False)
        decision, reasons = policy.decide(scores, tuple(Aspect), failure)
        found.append(
            judged(
                f"image-{number}",
                scores=scores,
                failure=failure,
                decision=decision,
                reasons=reasons,
                policy=f"{policy.name}@{policy.ref.digest}",
                model="mini@0123456789ab",
            )
        )
    return found


def plain(_: Judged) -> Image.Image:
    """A finder that has the same image for all."""
    return Image.new("RGB", (64, 48), "teal")


def run_js(files: Sequence[str], program: str, given: object) -> Any:
    """What `program` prints as JSON, run after some of the page's scripts with `given` as `GIVEN`."""
    scripts = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in files)
    whole = f"{scripts}\nconst GIVEN = JSON.parse(require('fs').readFileSync(0, 'utf8'));\n{program}"
    command = ["node", "--eval", whole]
    ended = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)
