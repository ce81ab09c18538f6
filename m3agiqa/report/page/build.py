"""Writes the page of verdicts into a folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from m3agiqa.contract import Aspect, Decision
from m3agiqa.errors import M3AGIQAError, OutputError
from m3agiqa.outputs import make_folder, write
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.pools import threads
from m3agiqa.progress import Progress, tracked, unseen
from m3agiqa.quoting import quoted
from m3agiqa.report.anew import decided_by
from m3agiqa.report.judged import Judged
from m3agiqa.report.page.sampling import Proposal, propose
from m3agiqa.report.page.thumbnails import Find, Thumbnail, nowhere, small

#: Verdicts in a file of data. A browser reads several files at once.
CHUNK = 1000
#: Where the static page takes the names of the files of data.
_HERE = "<!-- data -->"
_INDEX, _DATA, _THUMBS = "index.html", "data", "thumbs"


@dataclass(frozen=True)
class Page:
    """What a page shows, apart from the verdicts."""

    #: Thresholds that are drawn, and where the sliders begin.
    policy: Policy
    title: str = "Verdicts"
    #: Images that are proposed for labelling, about.
    labels: int = 200
    #: Seed of that draw.
    seed: int = 0
    #: Pixels of the longer side of a thumbnail.
    side: int = 512


def build(
    images: Sequence[Judged],
    folder: Path,
    page: Page,
    find: Find = nowhere,
    progress: Progress = unseen,
    *,
    at_once: int | None = None,
) -> Path:
    """Write the page of `images` into `folder`, which is new, empty, or holds an earlier page. Returns its index.html.

    `find` is called from `at_once` threads, by default one a processor.

    Raises:
        OutputError: a file cannot be written, or the folder holds something else.
    """
    _clear(folder)
    found = _thumbnails(images, folder / _THUMBS, page.side, find, at_once or os.cpu_count() or 1)
    thumbnails = list(tracked(found, len(images), progress))
    # Only what can be looked at is labelled, so labels speak for those images.
    seen = [image for image, thumbnail in zip(images, thumbnails, strict=True) if thumbnail.file is not None]
    proposals = propose(seen, page.policy, labels=page.labels, seed=page.seed)
    names = [_write_data(folder, "about", _about(page, len(images)))]
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        rows = [
            # The first image with an id is the proposed one.
            row(image, page.policy, thumbnail, proposals.pop(image.id, None) if thumbnail.file else None)
            for image, thumbnail in zip(images[part], thumbnails[part], strict=True)
        ]
        names.append(_write_data(folder, f"{start // CHUNK:04}", rows))
    _write_static(folder, names)
    return folder / _INDEX


def _clear(folder: Path) -> None:
    """Make the folder, and remove an earlier page's data from it."""
    make_folder(folder)
    ours = {_DATA, _THUMBS, *(file.name for file in _static())}
    if others := sorted({file.name for file in folder.iterdir()} - ours):
        raise OutputError(f"{folder} holds something else than a report, {quoted(others[0])}; name a new folder")
    for part, suffix in ((folder / _DATA, ".js"), (folder / _THUMBS, ".webp")):
        make_folder(part)
        for old in part.glob(f"*{suffix}"):
            old.unlink()


def _thumbnails(images: Sequence[Judged], folder: Path, side: int, find: Find, at_once: int) -> Iterator[Thumbnail]:
    def thumbnail(image: Judged) -> Thumbnail:
        try:
            data = small(find(image), side)
        except OutputError:
            raise
        except M3AGIQAError as error:
            return Thumbnail(why=str(error))
        name = f"{hashlib.sha256(data).hexdigest()[:32]}.webp"
        write(folder / name, data)
        return Thumbnail(file=f"{_THUMBS}/{name}")

    with threads(at_once) as pool:
        yield from pool.map(thumbnail, images)


def _about(page: Page, count: int) -> dict[str, Any]:
    policy = page.policy
    return {
        "title": page.title,
        "count": count,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "aspects": list(Aspect),
        "policy": policy.model_dump(mode="json") | {"digest": policy.ref.digest},
        "seed": page.seed,
    }


def row(image: Judged, policy: Policy, thumbnail: Thumbnail, proposal: Proposal | None) -> dict[str, Any]:
    """An image as `data.js` takes it; what is None is left out."""
    said = {
        "id": image.id,
        # What held before, if something did: the page shows what changed.
        "decision": image.before or image.decision,
        "reasons": image.reasons,
        "scores": {aspect: [each.score, each.rating, each.description] for aspect, each in image.scores.items()},
        # What the sliders cannot change, with its reasons.
        "floor": _floor(image, policy),
        "failure": None if image.failure is None else [image.failure.code, image.failure.message],
        "policy": image.policy,
        "model": image.model,
        "image": image.image,
        "prompt": image.prompt,
        "sha256": image.image_sha256,
        "at": None if image.scored_at is None else image.scored_at.isoformat(timespec="seconds"),
        "thumb": thumbnail.file,
        "why": thumbnail.why,
        "plan": None if proposal is None else [proposal.chosen, proposal.chance, proposal.turn],
    }
    return {name: value for name, value in said.items() if value is not None}


def _floor(image: Judged, policy: Policy) -> tuple[Decision, tuple[str, ...]]:
    """What `policy` decides whatever its thresholds are: by failures, aspects without a score, its sample."""
    without = policy.model_copy(update={"aspects": dict.fromkeys(policy.aspects, Thresholds())})
    return decided_by(image, without)


def _write_data(folder: Path, name: str, content: object) -> str:
    """Write a file of data as a script, as pages from a disk may read nothing else. Returns its path in the folder.

    A string that is parsed is read twice as fast as the same as a literal, and has no names that mean something.
    """
    text = json.dumps(json.dumps(content, ensure_ascii=False, separators=(",", ":")))
    file = f"{_DATA}/{name}.js"
    write(folder / file, f"Data.take({text});\n")
    return file


def _static() -> list[Traversable]:
    return [file for file in (resources.files(__package__) / "static").iterdir() if file.is_file()]


def _write_static(folder: Path, data: Sequence[str]) -> None:
    files = {file.name: file.read_text(encoding="utf-8") for file in _static()}
    tags = "\n".join(f'<script defer src="{name}"></script>' for name in data)
    assert Counter(files[_INDEX].splitlines())[_HERE] == 1, "the page has one place for data"
    index = files.pop(_INDEX).replace(_HERE, tags)
    for name, text in files.items():
        write(folder / name, text)
    write(folder / _INDEX, index)
