"""One batch's way through the language model: read prompts, write descriptions, read on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch

from m3agiqa.engine.attention import PAGE_STEPS, Layout, Reading, decode_attention
from m3agiqa.engine.cache import KVCache
from m3agiqa.engine.search import BeamSearch, GreedySearch
from m3agiqa.model.language import Llama
from m3agiqa.model.lora import Groups
from m3agiqa.profile import Describe

#: Tokens read at once: bounds what the layers between need.
_READ_TOKENS = 16_384
#: Steps between two looks at which prompts are finished; each look waits for the device.
_LOOK_STEPS = 8


class Session:
    """Sequences that were read together, and may be continued.

    Args:
        embeddings: [tokens, hidden] of each sequence, sorted by adapter.
        adapters: number of each sequence's adapter.
        room: tokens by which each sequence may still be read on.
    """

    def __init__(
        self,
        llama: Llama,
        cache: KVCache,
        embeddings: Sequence[torch.Tensor],
        adapters: Sequence[int],
        room: Sequence[int],
    ) -> None:
        self._llama = llama
        self._cache = cache
        self._adapters = list(adapters)
        self._lengths = [len(each) for each in embeddings]
        self._starts = [cache.take(length + extra) for length, extra in zip(self._lengths, room, strict=True)]
        #: States [tokens, hidden] of each sequence, after the final norm.
        self.states = self.read(range(len(embeddings)), [0] * len(embeddings), embeddings)

    def read(self, rows: Sequence[int], known: Sequence[int], embeddings: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Read sequences on from their `known` first tokens; what came behind those is forgotten.

        Returns:
            States [tokens, hidden] of the new tokens of each.
        """
        states: list[torch.Tensor] = []
        for part in _portions([len(each) for each in embeddings]):
            of = rows[part]
            new = [len(each) for each in embeddings[part]]
            reading = Reading(self._cache, [self._starts[row] for row in of], known[part], new, self._llama.device)
            counts = [
                (adapter, sum(count for _, count in group))
                for adapter, group in groupby(
                    zip([self._adapters[row] for row in of], new, strict=True), lambda pair: pair[0]
                )
            ]
            read = self._llama.forward(
                torch.cat(list(embeddings[part])),
                reading.positions,
                Groups.of(counts, len(self._llama.tables)),
                reading,
            )
            states += read.split(new)
        return states

    def generate(self, describe: Describe, eos_ids: Sequence[int]) -> list[list[int]]:
        """Continue every sequence.

        Returns:
            Generated ids of each, the end token with them.
        """
        device = self._llama.device
        ends = torch.tensor(eos_ids, device=device)
        step = torch.zeros(1, dtype=torch.int64, device=device)
        kind = GreedySearch if describe.num_beams == 1 else BeamSearch
        search = kind.start(len(self.states), describe, device)
        search.advance(
            self._llama.logits(torch.stack([states[-1] for states in self.states])),
            step,
            ends,
            describe.repetition_penalty,
        )
        layout = self._layout(describe)
        alive = torch.arange(len(self.states))
        results: dict[int, list[int]] = {}
        for count in range(1, describe.max_new_tokens + 1):
            if count % _LOOK_STEPS == 1 or count == describe.max_new_tokens:
                finished = torch.tensor(search.finished())
                if finished.any():
                    results |= dict(
                        zip(alive[finished].tolist(), search.select(finished.to(device)).results(), strict=True)
                    )
                    alive, kept = alive[~finished], (~finished).to(device)
                    search, layout = search.select(kept), layout.select(kept)
                if not len(alive):
                    break
            self._grow(layout, count - 1, describe.num_beams)
            step.fill_(count)
            logits = self._decode(search, layout, [self._adapters[row] for row in alive.tolist()], step)
            search.advance(logits, step, ends, describe.repetition_penalty)
        return [results[row] for row in range(len(self.states))]

    def _layout(self, describe: Describe) -> Layout:
        device = self._llama.device
        pages = -(-describe.max_new_tokens // PAGE_STEPS)
        return Layout(
            starts=torch.tensor(self._starts, dtype=torch.int32, device=device),
            lengths=torch.tensor(self._lengths, dtype=torch.int32, device=device),
            pages=torch.zeros(len(self._starts), pages, dtype=torch.int32, device=device),
        )

    def _grow(self, layout: Layout, step: int, beams: int) -> None:
        """Take the cache's next pages when the generated tokens fill theirs."""
        if step % PAGE_STEPS == 0:
            places = [self._cache.take(PAGE_STEPS * beams) for _ in range(len(layout.starts))]
            layout.pages[:, step // PAGE_STEPS] = torch.tensor(places, dtype=torch.int32)

    def _decode(self, search: BeamSearch, layout: Layout, adapters: Sequence[int], step: torch.Tensor) -> torch.Tensor:
        """Logits [P * B, vocab] behind the newest tokens."""
        beams = search.tokens.shape[1]
        written = step - 1
        groups = Groups.of(
            [(adapter, beams * len(list(rows))) for adapter, rows in groupby(adapters)], len(self._llama.tables)
        )
        places = layout.current(written, beams)

        def attend(layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            self._cache.write(layer, places, keys, values)
            return decode_attention(
                queries, self._cache.keys[layer], self._cache.values[layer], layout, search.ancestors, int(written)
            )

        positions = (layout.lengths.long() + written).repeat_interleave(beams)
        states = self._llama.embed(search.latest(step), groups)
        return self._llama.logits(self._llama.forward(states, positions, groups, attend))


def generated_places(describe: Describe) -> int:
    """Places of the cache that one sequence's generated tokens take at most."""
    return -(-describe.max_new_tokens // PAGE_STEPS) * PAGE_STEPS * describe.num_beams


def _portions(lengths: Sequence[int]) -> Iterator[slice]:
    """Slices of rows with about _READ_TOKENS tokens, at least one row each."""
    start, tokens = 0, 0
    for row, length in enumerate(lengths):
        if tokens and tokens + length > _READ_TOKENS:
            yield slice(start, row)
            start, tokens = row, 0
        tokens += length
    yield slice(start, len(lengths))
