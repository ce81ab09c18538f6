"""Beam search and greedy search on the device, with the semantics of transformers' `generate`.

The repetition penalty sees generated tokens only. Only `finished` and `results` wait for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch

from m3agiqa.engine.ops import moved
from m3agiqa.profile import Describe

#: Score of a candidate that cannot be chosen.
_NEVER = -1e9
#: Words of the vocabulary whose best one stands for them as the best of all are looked for.
_RUN_WORDS = 256
#: Token of a position that is not filled.
EMPTY = -1


@dataclass(frozen=True)
class Written:
    """The best sequence that a search found for a prompt."""

    #: Its ids, the end token with them.
    ids: list[int]
    #: The beam in whose slot each id was computed, but for the last, which no step has read.
    beams: list[int]


@dataclass
class BeamSearch:
    """The search of P prompts with B beams each, up to T tokens."""

    #: Tokens of the running beams, [P, B, T] int32.
    tokens: torch.Tensor
    #: Sum of log-probabilities of the running beams, [P, B] float32.
    scores: torch.Tensor
    #: The beam in whose slot the token of each earlier step and beam was computed, [P, T, B] int32.
    ancestors: torch.Tensor
    #: The beam that each beam's token continued, by step, [P, T, B] int32; unlike `ancestors`, never reordered.
    parents: torch.Tensor
    #: The best finished sequences, [P, B, T] int32, their scores by length [P, B], whether there is one [P, B], and the
    #: beam that each one's last token continued, [P, B] int32.
    done_tokens: torch.Tensor
    done_scores: torch.Tensor
    done: torch.Tensor
    done_parents: torch.Tensor
    #: Most tokens of each prompt's sequences, [P, 1] int64.
    limits: torch.Tensor
    #: Whether a prompt's finished sequences may still improve, [P, 1].
    open: torch.Tensor

    @classmethod
    def start(cls, limits: Sequence[int | None], describe: Describe, device: torch.device) -> Self:
        """Start with a prompt for each of `limits`, its most tokens if those are fewer than `describe` allows."""
        beams, length = describe.num_beams, describe.max_new_tokens

        def full(*shape: int, value: float, dtype: torch.dtype) -> torch.Tensor:
            return torch.full((len(limits), *shape), value, dtype=dtype, device=device)

        return cls(
            tokens=full(beams, length, value=EMPTY, dtype=torch.int32),
            scores=full(beams, value=0, dtype=torch.float32),
            ancestors=full(length, beams, value=0, dtype=torch.int32),
            parents=full(length, beams, value=0, dtype=torch.int32),
            done_tokens=full(beams, length, value=EMPTY, dtype=torch.int32),
            done_scores=full(beams, value=_NEVER, dtype=torch.float32),
            done=full(beams, value=False, dtype=torch.bool),
            done_parents=full(beams, value=0, dtype=torch.int32),
            limits=moved(torch.tensor([[min(limit or length, length)] for limit in limits]), device),
            open=full(1, value=True, dtype=torch.bool),
        )

    def advance(self, logits: torch.Tensor, step: torch.Tensor, eos_ids: torch.Tensor, penalty: float) -> None:
        """Take the next token of every beam.

        Args:
            logits: [P, vocab] at the first step, [P * B, vocab] later.
            step: [1] int64, tokens generated so far.
            eos_ids: [n], int64.
            penalty: penalty for tokens generated before; 1 is none.
        """
        prompts, beams, length = self.tokens.shape
        keep = max(2, 1 + len(eos_ids)) * beams
        log_probs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        if len(logits) != prompts:
            _penalise(log_probs, self.tokens.view(prompts * beams, length), penalty)
        # The best of all are among the best of each beam.
        best, ids = _top(log_probs, keep)
        totals = best.view(prompts, -1, keep) + self.scores[:, : len(logits) // prompts, None]
        totals, chosen = totals.flatten(1).topk(keep, dim=1)
        parents = chosen // keep
        new = ids.view(prompts, -1).gather(1, chosen)

        last = step + 1 >= self.limits
        ends = _is_in(new, eos_ids) | last
        candidates = self.tokens.gather(1, parents[..., None].expand(-1, -1, length))
        candidates.index_copy_(2, step, new[..., None].to(candidates.dtype))
        self._finish(candidates, parents, totals, ends, step)

        running = totals + ends * _NEVER
        scores, order = running.topk(beams, dim=1)
        parents = parents.gather(1, order)
        self.scores.copy_(scores)
        self.tokens.copy_(candidates.gather(1, order[..., None].expand(-1, -1, length)))
        self.ancestors.copy_(self.ancestors.gather(2, parents[:, None].expand(-1, length, -1)))
        own = torch.arange(beams, dtype=self.ancestors.dtype, device=step.device).expand(prompts, 1, beams)
        self.ancestors.index_copy_(1, step, own)
        self.parents.index_copy_(1, step, parents[:, None].to(self.parents.dtype))

        best_running = self.scores[:, :1] / (step + 1)
        worst_done = torch.where(self.done, self.done_scores.amin(dim=1, keepdim=True), _NEVER)
        self.open &= (best_running > worst_done).any(dim=1, keepdim=True) & ~last

    def _finish(
        self,
        candidates: torch.Tensor,
        parents: torch.Tensor,
        totals: torch.Tensor,
        ends: torch.Tensor,
        step: torch.Tensor,
    ) -> None:
        """Take in the sequences among the first `beams` candidates that ended now, and keep the best finished ones."""
        beams = self.tokens.shape[1]
        ended = ends.clone()
        ended[:, beams:] = False
        by_length = totals / (step + 1) + (~self.open) * _NEVER + (~ended) * _NEVER
        scores, order = torch.cat([self.done_scores, by_length], dim=1).topk(beams, dim=1)
        tokens = torch.cat([self.done_tokens, candidates], dim=1)
        self.done_tokens.copy_(tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2])))
        self.done.copy_(torch.cat([self.done, ended], dim=1).gather(1, order))
        self.done_parents.copy_(torch.cat([self.done_parents, parents], dim=1).gather(1, order))
        self.done_scores.copy_(scores)

    def latest(self, step: torch.Tensor) -> torch.Tensor:
        """Each beam's newest token, [P * B] int64, `step` tokens having been generated."""
        return self.tokens.index_select(2, step - 1).flatten().long()

    def finished(self) -> list[bool]:
        """Which prompts are finished; waits for the device."""
        return [not still for still in self.open[:, 0].tolist()]

    def results(self) -> list[Written]:
        """Each prompt's best sequence; waits for the device."""
        found = [[token for token in row if token != EMPTY] for row in self.done_tokens[:, 0].tolist()]
        parents = self.parents[:, : max(map(len, found), default=0)].tolist()
        each = zip(found, parents, self.done_parents[:, 0].tolist(), strict=True)
        return [Written(ids, _traced(row, last, len(ids) - 1)) for ids, row, last in each]

    def select(self, rows: torch.Tensor) -> Self:
        """The search of some prompts."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


class GreedySearch(BeamSearch):
    """One beam: the likeliest token each time, the penalty on logits as transformers has it there."""

    def advance(self, logits: torch.Tensor, step: torch.Tensor, eos_ids: torch.Tensor, penalty: float) -> None:
        """Take the next token, as in beam search; logits [P, vocab]."""
        logits = logits.float()
        penalised = logits.clone()
        _penalise(penalised, self.tokens[:, 0], penalty)
        # At the first step there is nothing to penalise.
        new = torch.where(step > 0, penalised, logits).argmax(dim=-1, keepdim=True)
        new = torch.where(self.open, new, EMPTY)
        self.tokens.index_copy_(2, step, new[:, None].to(self.tokens.dtype))
        self.open &= ~_is_in(new, eos_ids) & (step + 1 < self.limits)
        self.done_tokens.copy_(self.tokens)

    def latest(self, step: torch.Tensor) -> torch.Tensor:
        return super().latest(step).clamp(min=0)


def _top(scores: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `number` greatest scores [rows, vocab] of each row, and their words.

    They lie in as many runs of words, those whose own best are the greatest: one pass over the scores and a search
    through little, where `topk` over a vocabulary passes over them several times.
    """
    rows, vocab = scores.shape
    if vocab % _RUN_WORDS or vocab < 4 * number * _RUN_WORDS:
        best, words = scores.topk(number, dim=-1)
        return best, words
    runs = scores.view(rows, -1, _RUN_WORDS)
    chosen = runs.amax(dim=-1).topk(number, dim=-1).indices
    found = runs.gather(1, chosen[..., None].expand(-1, -1, _RUN_WORDS)).flatten(1)
    best, at = found.topk(number, dim=-1)
    return best, chosen.gather(1, at // _RUN_WORDS) * _RUN_WORDS + at % _RUN_WORDS


def _traced(parents: Sequence[Sequence[int]], last: int, count: int) -> list[int]:
    """The beam of each of `count` tokens, `last` being that of the last one."""
    beams = []
    for step in reversed(range(count)):
        beams.append(last)
        last = parents[step][last]
    return beams[::-1]


def _is_in(tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return (tokens[..., None] == ids).any(dim=-1)


def _penalise(scores: torch.Tensor, tokens: torch.Tensor, penalty: float) -> None:
    """Make the tokens generated before less likely, in place (CTRL, arXiv 1909.05858).

    Args:
        scores: [rows, vocab], log-probabilities or logits.
        tokens: [rows, T]; empty positions count as repetitions of the first token.
    """
    if penalty == 1:
        return
    seen = torch.where(tokens == EMPTY, tokens[:, :1], tokens).clamp(min=0).long()
    values = scores.gather(1, seen)
    scores.scatter_(1, seen, torch.where(values < 0, values * penalty, values / penalty))
