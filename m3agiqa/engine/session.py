"""Takes one batch through the language model, which reads prompts, writes descriptions and reads on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from m3agiqa.engine.attention import PrefillAttention
from m3agiqa.engine.cache import PAGE_STEPS, Layout
from m3agiqa.engine.decoding import DecodeStep, ModelRunner
from m3agiqa.engine.lora import Groups

#: Tokens read at once; they bound the memory of the layers between.
_READ_TOKENS = 8_192
#: Steps between two looks at which prompts are finished; each look waits for the device.
_LOOK_STEPS = 8


class Session:
    """Sequences that the model reads together and can continue; `runner` forgets those of the session before.

    Args:
        runner: the model, its cache, and its steps of decoding.
        embeddings: [tokens, hidden] of each sequence, sorted by adapter.
        adapters: number of each sequence's adapter, none oftener than the runner was made for.

    Raises:
        ScoringOutOfMemory: the cache has no room for so much.
    """

    def __init__(self, runner: ModelRunner, embeddings: Sequence[torch.Tensor], adapters: Sequence[int]) -> None:
        runner.forget()
        self._runner = runner
        self._adapters = list(adapters)
        self._lengths = [len(each) for each in embeddings]
        #: Slot of every token in the cache, by its position in each sequence.
        self._slots = [torch.empty(0, dtype=torch.int64) for _ in embeddings]
        #: States [tokens, hidden] of each sequence, after the final norm.
        self.states = self.read(range(len(embeddings)), [0] * len(embeddings), embeddings)

    def read(
        self, sequences: Sequence[int], known: Sequence[int], embeddings: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Read sequences on from their `known` first tokens; the tokens behind those are forgotten.

        Returns:
            States [tokens, hidden] of the new tokens of each.
        """
        llama = self._runner.llama
        states: list[torch.Tensor] = []
        for part in _portions([len(each) for each in embeddings]):
            numbers = sequences[part]
            new = [len(each) for each in embeddings[part]]
            for number, count, more in zip(numbers, known[part], new, strict=True):
                self._reach(number, count + more)
            slots = [self._slots[number] for number in numbers]
            attend = PrefillAttention(self._runner.cache, llama.frequencies, slots, known[part], new)
            groups = Groups.from_sequences((self._adapters[number] for number in numbers), new, len(llama.tables))
            states += llama.forward(torch.cat(list(embeddings[part])), groups, attend).split(new)
        return states

    def _reach(self, sequence: int, length: int) -> None:
        """Make sure that a sequence of `length` tokens has its slots."""
        if (missing := length - len(self._slots[sequence])) > 0:
            start = self._runner.cache.take(missing)
            self._slots[sequence] = torch.cat([self._slots[sequence], torch.arange(start, start + missing)])

    def generate(self) -> list[list[int]]:
        """Continue every sequence as it was first read; gives the generated ids of each, the end token with them.

        The cache does not keep what was generated: it is tokenised anew before it is read on.
        """
        if not self.states:
            return []
        taken = self._runner.cache.taken
        try:
            return self._generate()
        finally:
            self._runner.cache.give_back(taken)

    def _generate(self) -> list[list[int]]:
        alive = list(range(len(self.states)))
        step, rows = self._begin()
        results: dict[int, list[int]] = {}
        limit = self._runner.describe.max_new_tokens
        for count in range(1, limit + 1):
            if count % _LOOK_STEPS == 1 or count == limit:
                finished = step.search.finished()
                going = [at for at, row in enumerate(rows) if not finished[row]]
                if len(going) < len(alive):
                    done = [at for at, row in enumerate(rows) if finished[row]]
                    found = step.search.select(self._index([rows[at] for at in done])).results()
                    results |= zip([alive[at] for at in done], found, strict=True)
                    if not going:
                        break
                    alive = [alive[at] for at in going]
                    adapters = [self._adapters[number] for number in alive]
                    step, rows = self._runner.narrow(step, [rows[at] for at in going], adapters)
            if (count - 1) % PAGE_STEPS == 0:
                self._turn_page(step, rows, (count - 1) // PAGE_STEPS)
            step.run(count)
        return [results[number] for number in range(len(self.states))]

    def _begin(self) -> tuple[DecodeStep, list[int]]:
        """Choose the first token of every sequence from its last state; gives the step that goes on, and their rows."""
        runner, device = self._runner, self._runner.llama.device
        search = runner.search(len(self.states))
        first = runner.llama.logits(torch.stack([states[-1] for states in self.states]))
        none = torch.zeros(1, dtype=torch.int64, device=device)
        search.advance(first, none, runner.eos_ids, runner.describe.repetition_penalty)
        layout = Layout(
            starts=torch.tensor([int(slots[0]) for slots in self._slots], dtype=torch.int32, device=device),
            lengths=torch.tensor(self._lengths, dtype=torch.int32, device=device),
            pages=torch.full((len(self._lengths), runner.pages), runner.scratch, dtype=torch.int32, device=device),
        )
        return runner.step(search, layout, self._adapters)

    def _turn_page(self, step: DecodeStep, rows: Sequence[int], page: int) -> None:
        """Take slots in the cache for the next PAGE_STEPS tokens of every beam.

        Raises:
            ScoringOutOfMemory: the cache has too few left.
        """
        pages = step.layout.pages
        starts = [self._runner.cache.take(self._runner.page_slots) for _ in rows]
        pages[self._index(rows), page] = torch.tensor(starts, dtype=torch.int32, device=pages.device)

    def _index(self, rows: Sequence[int]) -> torch.Tensor:
        return torch.tensor(list(rows), device=self._runner.llama.device, dtype=torch.int64)


def _portions(lengths: Sequence[int]) -> Iterator[slice]:
    """Runs of sequences with about _READ_TOKENS tokens, at least one sequence each."""
    start, tokens = 0, 0
    for number, length in enumerate(lengths):
        if tokens and tokens + length > _READ_TOKENS:
            yield slice(start, number)
            start, tokens = number, 0
        tokens += length
    if start < len(lengths):
        yield slice(start, len(lengths))
