"""One batch's way through the language model: read prompts, write descriptions, read on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from m3agiqa.engine.attention import Reading
from m3agiqa.engine.decoding import CapturedDecoding, Decoding, Graphs, Writer, pages
from m3agiqa.engine.layout import PAGE_STEPS, Layout
from m3agiqa.engine.lora import Groups

#: Tokens read at once: bounds what the layers between need.
_READ_TOKENS = 8_192
#: Steps between two looks at which prompts are finished; each look waits for the device.
_LOOK_STEPS = 8


class Session:
    """Sequences that were read together, and may be continued.

    Args:
        writer: the model and its cache.
        graphs: captured steps, if there are.
        embeddings: [tokens, hidden] of each sequence, sorted by adapter.
        adapters: number of each sequence's adapter.
    """

    def __init__(
        self,
        writer: Writer,
        embeddings: Sequence[torch.Tensor],
        adapters: Sequence[int],
        graphs: Graphs | None = None,
    ) -> None:
        self._writer = writer
        self._llama, self._cache = writer.llama, writer.cache
        self._graphs = graphs
        self._adapters = list(adapters)
        self._lengths = [len(each) for each in embeddings]
        #: Place of every token in the cache, by position.
        self._places = [torch.empty(0, dtype=torch.int64) for _ in embeddings]
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
            for row, count, more in zip(of, known[part], new, strict=True):
                self._reach(row, count + more)
            reading = Reading(self._cache, self._llama.frequencies, [self._places[row] for row in of], known[part], new)
            groups = Groups.of_sequences((self._adapters[row] for row in of), new, len(self._llama.tables))
            read = self._llama.forward(torch.cat(list(embeddings[part])), groups, reading)
            states += read.split(new)
        return states

    def _reach(self, row: int, length: int) -> None:
        """Have places for a sequence of `length` tokens."""
        if (missing := length - len(self._places[row])) > 0:
            start = self._cache.take(missing)
            self._places[row] = torch.cat([self._places[row], torch.arange(start, start + missing)])

    def generate(self) -> list[list[int]]:
        """Continue every sequence as it was first read; gives the generated ids of each, the end token with them.

        What was generated is not kept in the cache: it is tokenised anew before it is read on.
        """
        taken = self._cache.taken
        try:
            return self._generate()
        finally:
            self._cache.give_back(taken)

    def _generate(self) -> list[list[int]]:
        decoding = self._begin()
        alive = list(range(len(self.states)))
        results: dict[int, list[int]] = {}
        limit = self._writer.describe.max_new_tokens
        for step in range(1, limit + 1):
            if step % _LOOK_STEPS == 1 or step == limit:
                finished = decoding.finished()
                done = [row for row, ended in enumerate(finished) if ended]
                results |= zip([alive[row] for row in done], decoding.results(done), strict=True)
                if len(done) == len(alive):
                    break
                if done:
                    going = [row for row, ended in enumerate(finished) if not ended]
                    alive = [alive[row] for row in going]
                    decoding.keep(going)
            if (step - 1) % PAGE_STEPS == 0:
                decoding.turn_page((step - 1) // PAGE_STEPS)
            decoding.advance(step)
        return [results[row] for row in range(len(self.states))]

    def _begin(self) -> Decoding:
        """Choose the first token of every sequence from what was read."""
        writer, device = self._writer, self._llama.device
        search = writer.search(len(self.states))
        first = self._llama.logits(torch.stack([states[-1] for states in self.states]))
        writer.choose(search, first, torch.zeros(1, dtype=torch.int64, device=device))
        layout = Layout(
            starts=torch.tensor([int(places[0]) for places in self._places], dtype=torch.int32, device=device),
            lengths=torch.tensor(self._lengths, dtype=torch.int32, device=device),
            pages=torch.zeros(len(self._lengths), pages(writer.describe), dtype=torch.int32, device=device),
        )
        if self._graphs is None:
            return Decoding(writer, search, layout, self._adapters)
        layout.pages.fill_(self._graphs.scratch)
        return CapturedDecoding(writer, self._graphs, search, layout, self._adapters)


def _portions(lengths: Sequence[int]) -> Iterator[slice]:
    """Slices of rows with about _READ_TOKENS tokens, at least one row each."""
    start, tokens = 0, 0
    for row, length in enumerate(lengths):
        if tokens and tokens + length > _READ_TOKENS:
            yield slice(start, row)
            start, tokens = row, 0
        tokens += length
    yield slice(start, len(lengths))
