"""Takes one batch through the language model, which reads prompts, writes descriptions and reads on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from m3agiqa.engine.attention import PrefillAttention
from m3agiqa.engine.cache import PAGE_STEPS, Layout
from m3agiqa.engine.decoding import DecodeStep, ModelRunner
from m3agiqa.engine.lora import Groups
from m3agiqa.engine.ops import moved
from m3agiqa.engine.search import Written

#: Tokens read at once; they bound the memory of the layers between.
_READ_TOKENS = 8_192
#: Tokens that those see at once, themselves among them; they bound the memory of keys and values gathered to be seen.
_SEEN_TOKENS = 32_768
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
        #: First slots of the pages with each sequence's generated tokens.
        self._pages: list[list[int]] = []
        #: States [tokens, hidden] of each sequence as far as the cache has it, after the final norm.
        self.states = [each[:0] for each in embeddings]
        self.read(range(len(embeddings)), [0] * len(embeddings), embeddings)

    def read(
        self, sequences: Sequence[int], known: Sequence[int], embeddings: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Read sequences on from their `known` first tokens; the tokens behind those are forgotten.

        Returns:
            States [tokens, hidden] of each of them, the known tokens' before those of the new.
        """
        llama = self._runner.llama
        for part in _portions(known, [len(each) for each in embeddings]):
            numbers = sequences[part]
            new = [len(each) for each in embeddings[part]]
            for number, count, more in zip(numbers, known[part], new, strict=True):
                self._reach(number, count + more)
            slots = [self._slots[number] for number in numbers]
            attend = PrefillAttention(self._runner.cache, llama.frequencies, slots, known[part], new)
            groups = Groups.from_sequences((self._adapters[number] for number in numbers), new, len(llama.tables))
            states = llama.forward(torch.cat(list(embeddings[part])), groups, attend).split(new)
            for number, count, read in zip(numbers, known[part], states, strict=True):
                self.states[number] = torch.cat([self.states[number][:count], read]) if count else read
        return [self.states[number] for number in sequences]

    def _reach(self, sequence: int, length: int) -> None:
        """Make sure that a sequence of `length` tokens has its slots."""
        if (missing := length - len(self._slots[sequence])) > 0:
            start = self._runner.cache.take(missing)
            self._slots[sequence] = torch.cat([self._slots[sequence], torch.arange(start, start + missing)])

    def generate(self, limits: Sequence[int | None] | None = None) -> list[list[int]]:
        """Continue every sequence as it was first read; gives the generated ids of each, the end token with them.

        All but the last of those ids count as read: `read` may go on behind them.

        Args:
            limits: most tokens of each sequence, 1 or more, where they are fewer than the runner's `describe` allows.
        """
        if not self.states:
            return []
        written = self._generate(limits or [None] * len(self.states))
        self._keep(written)
        return [each.ids for each in written]

    def _keep(self, written: Sequence[Written]) -> None:
        """Let each sequence go on with what the beams of its best continuation left in the cache."""
        cache, beams = self._runner.cache, self._runner.describe.num_beams
        slots = [
            torch.tensor(
                [pages[at // PAGE_STEPS] + at % PAGE_STEPS * beams + beam for at, beam in enumerate(each.beams)],
                dtype=torch.int64,
            )
            for each, pages in zip(written, self._pages, strict=True)
        ]
        states = cache.states[moved(torch.cat(slots), cache.states.device)].split([len(each) for each in slots])
        for number, length in enumerate(self._lengths):
            self._slots[number] = torch.cat([self._slots[number][:length], slots[number]])
            self.states[number] = torch.cat([self.states[number][:length], states[number]])

    def _generate(self, limits: Sequence[int | None]) -> list[Written]:
        alive = list(range(len(self.states)))
        self._pages = [[] for _ in alive]
        step, rows = self._begin(limits)
        results: dict[int, Written] = {}
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
                self._turn_page(step, alive, rows)
            step.run(count)
        return [results[number] for number in range(len(self.states))]

    def _begin(self, limits: Sequence[int | None]) -> tuple[DecodeStep, list[int]]:
        """Choose the first token of every sequence from its last state; gives the step that goes on, and their rows."""
        runner, device = self._runner, self._runner.llama.device
        search = runner.search(limits)
        last = [states[length - 1] for states, length in zip(self.states, self._lengths, strict=True)]
        first = runner.llama.logits(torch.stack(last))
        none = torch.zeros(1, dtype=torch.int64, device=device)
        search.advance(first, none, runner.eos_ids, runner.describe.repetition_penalty)
        layout = Layout(
            starts=torch.tensor([int(slots[0]) for slots in self._slots], dtype=torch.int32, device=device),
            lengths=torch.tensor(self._lengths, dtype=torch.int32, device=device),
            pages=torch.full((len(self._lengths), runner.pages), runner.scratch, dtype=torch.int32, device=device),
        )
        return runner.step(search, layout, self._adapters)

    def _turn_page(self, step: DecodeStep, alive: Sequence[int], rows: Sequence[int]) -> None:
        """Take slots in the cache for the next PAGE_STEPS tokens of every beam of the sequences `alive`, in `rows`.

        Raises:
            ScoringOutOfMemory: the cache has too few left.
        """
        for number in alive:
            self._pages[number].append(self._runner.cache.take(self._runner.page_slots))
        pages, page = step.layout.pages, len(self._pages[alive[0]]) - 1
        starts = [self._pages[number][page] for number in alive]
        pages[self._index(rows), page] = torch.tensor(starts, dtype=torch.int32, device=pages.device)

    def _index(self, rows: Sequence[int]) -> torch.Tensor:
        return torch.tensor(list(rows), device=self._runner.llama.device, dtype=torch.int64)


def _portions(known: Sequence[int], new: Sequence[int]) -> Iterator[slice]:
    """Runs of sequences with up to _READ_TOKENS new tokens that see _SEEN_TOKENS, at least one sequence each."""
    start, tokens, seen = 0, 0, 0
    for number, (count, more) in enumerate(zip(known, new, strict=True)):
        if tokens and (tokens + more > _READ_TOKENS or seen + count + more > _SEEN_TOKENS):
            yield slice(start, number)
            start, tokens, seen = number, 0, 0
        tokens, seen = tokens + more, seen + count + more
    if start < len(new):
        yield slice(start, len(new))
