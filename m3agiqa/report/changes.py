"""Counts what changes between two decisions about the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from m3agiqa.contract import Aspect, Decision
from m3agiqa.policy import SEVERITY, Policy
from m3agiqa.report.anew import decided_by
from m3agiqa.report.judged import Judged


@dataclass(frozen=True)
class Moves:
    """Images by what was decided before, and after."""

    images: Counter[tuple[Decision, Decision]] = field(default_factory=Counter)

    def add(self, before: Decision, after: Decision) -> None:
        self.images[before, after] += 1

    @property
    def total(self) -> int:
        return self.images.total()

    @property
    def stricter(self) -> int:
        """Images about which the decision is more severe now."""
        return sum(count for (old, new), count in self.images.items() if SEVERITY[new] > SEVERITY[old])

    @property
    def milder(self) -> int:
        """Images about which the decision is less severe now."""
        return sum(count for (old, new), count in self.images.items() if SEVERITY[new] < SEVERITY[old])

    def to_json(self) -> dict[str, Any]:
        """Counts; `decisions` has those before on the outside, and those after inside."""
        return {
            "images": self.total,
            "stricter": self.stricter,
            "milder": self.milder,
            "decisions": {old: {new: self.images[old, new] for new in Decision} for old in Decision},
        }


@dataclass(frozen=True)
class Changes:
    """What changes between two policies: of all images, by model, and by aspect as if it were judged alone."""

    all: Moves = field(default_factory=Moves)
    aspects: dict[Aspect, Moves] = field(default_factory=dict)
    models: dict[str, Moves] = field(default_factory=dict)

    def compare(self, item: Judged, old: Policy, new: Policy) -> bool:
        """Count an image. Returns whether the two policies decide differently about it."""
        before, after = decided_by(item, old)[0], decided_by(item, new)[0]
        for moves in (self.all, self.models.setdefault(item.model, Moves())):
            moves.add(before, after)
        for aspect in Aspect:
            if (scored := item.scores.get(aspect)) is not None:
                moves = self.aspects.setdefault(aspect, Moves())
                moves.add(old.judge(aspect, scored.score), new.judge(aspect, scored.score))
        return before is not after

    def groups(self) -> Iterator[tuple[str, Moves]]:
        """Name and counts of each group."""
        yield "decisions", self.all
        yield from ((f"{aspect} alone", self.aspects[aspect]) for aspect in Aspect if aspect in self.aspects)
        yield from ((f"decisions by {name or 'no model'}", moves) for name, moves in sorted(self.models.items()))

    def to_json(self) -> dict[str, Any]:
        return {
            **self.all.to_json(),
            "aspects": {aspect: self.aspects[aspect].to_json() for aspect in Aspect if aspect in self.aspects},
            "models": {name: moves.to_json() for name, moves in sorted(self.models.items())},
        }
