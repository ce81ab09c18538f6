"""The steps that write descriptions: a token for every beam of every prompt, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import torch

from m3agiqa.engine import ops
from m3agiqa.engine.attention import decode_attention
from m3agiqa.engine.cache import KVCache
from m3agiqa.engine.layout import PAGE_STEPS, Layout
from m3agiqa.engine.llama import Llama
from m3agiqa.engine.lora import Groups
from m3agiqa.engine.search import BeamSearch, GreedySearch
from m3agiqa.profile import Describe


def pages(describe: Describe) -> int:
    """Pages of the cache that one prompt's generated tokens take at most."""
    return -(-describe.max_new_tokens // PAGE_STEPS)


def page_places(describe: Describe) -> int:
    """Places in a page: all beams' tokens of PAGE_STEPS steps."""
    return PAGE_STEPS * describe.num_beams


@dataclass(frozen=True)
class Writer:
    """Who writes: a model with its cache, and how it searches."""

    llama: Llama
    cache: KVCache
    describe: Describe
    #: End tokens, [n] int64, on the model's device.
    eos_ids: torch.Tensor

    def search(self, prompts: int) -> BeamSearch:
        kind = GreedySearch if self.describe.num_beams == 1 else BeamSearch
        return kind.start(prompts, self.describe, self.llama.device)

    def choose(self, search: BeamSearch, logits: torch.Tensor, step: torch.Tensor) -> None:
        search.advance(logits, step, self.eos_ids, self.describe.repetition_penalty)

    def write(self, search: BeamSearch, layout: Layout, groups: Groups, step: torch.Tensor) -> None:
        """Compute every beam's newest token and choose the next; `step` ([1] int64) tokens are generated so far."""
        llama, cache, beams = self.llama, self.cache, self.describe.num_beams
        places = layout.current(step - 1, beams)
        positions = (layout.lengths + step - 1).repeat_interleave(beams)

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            keys, values = cache.keys[layer], cache.values[layer]
            queries = ops.rotate_and_store(qkv, positions, llama.frequencies, places, keys, values)
            return decode_attention(queries, keys, values, layout, search.ancestors, step)

        states = llama.forward(llama.embed(search.latest(step), groups), groups, attend)
        self.choose(search, llama.logits(states), step)


class Decoding:
    """The prompts that are still being continued, `adapters` in order."""

    def __init__(self, writer: Writer, search: BeamSearch, layout: Layout, adapters: Sequence[int]) -> None:
        self._writer = writer
        self._search, self._layout = search, layout
        self._adapters = list(adapters)
        self._step = torch.zeros(1, dtype=torch.int64, device=writer.llama.device)

    def __len__(self) -> int:
        return len(self._adapters)

    def finished(self) -> list[bool]:
        """Which prompts are finished; waits for the device."""
        return self._search.finished()

    def results(self, rows: Sequence[int]) -> list[list[int]]:
        """The sequences of finished prompts; waits for the device."""
        return self._search.select(self._index(rows)).results()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these prompts alone."""
        self._adapters = [self._adapters[row] for row in rows]
        index = self._index(rows)
        self._search, self._layout = self._search.select(index), self._layout.select(index)

    def turn_page(self, page: int) -> None:
        """Take room in the cache for the next PAGE_STEPS tokens of every beam.

        Raises:
            ScoringOutOfMemory: there is none.
        """
        places = [self._writer.cache.take(page_places(self._writer.describe)) for _ in range(len(self))]
        taken = torch.tensor(places, dtype=torch.int32, device=self._layout.pages.device)
        self._layout.pages[self._index(range(len(self))), page] = taken

    def advance(self, step: int) -> None:
        """Write the token after the first `step`."""
        self._step.fill_(step)
        counts = [
            (adapter, self._writer.describe.num_beams * len(list(rows))) for adapter, rows in groupby(self._adapters)
        ]
        groups = Groups.of(counts, len(self._writer.llama.tables))
        self._writer.write(self._search, self._layout, groups, self._step)

    def _index(self, rows: Sequence[int]) -> torch.Tensor:
        return torch.tensor(list(rows), device=self._step.device, dtype=torch.int64)


class CapturedStep:
    """One step as a CUDA graph, for `prompts` prompts of each adapter; its tensors stay where they are."""

    def __init__(self, writer: Writer, prompts: int, scratch: int, pool: Any) -> None:
        device, adapters = writer.llama.device, len(writer.llama.tables)
        rows = adapters * prompts
        self.prompts = prompts
        self.search, self._fresh = writer.search(rows), writer.search(rows)
        # A row nobody uses needs a token to go on from, too.
        self._fresh.tokens.zero_()
        #: Rows nobody uses read and write the scratch page.
        self._idle = Layout(
            starts=torch.full((rows,), scratch, dtype=torch.int32, device=device),
            lengths=torch.ones(rows, dtype=torch.int32, device=device),
            pages=torch.full((rows, pages(writer.describe)), scratch, dtype=torch.int32, device=device),
        )
        self.layout = self._idle.select(torch.arange(rows, device=device))
        self.step = torch.ones(1, dtype=torch.int64, device=device)
        groups = Groups.of([(adapter, prompts * writer.describe.num_beams) for adapter in range(adapters)], adapters)
        side = torch.cuda.Stream(device)
        self.search.tokens.zero_()
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(2):
                writer.write(self.search, self.layout, groups, self.step)
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            writer.write(self.search, self.layout, groups, self.step)
            self.step += 1

    def load(self, search: BeamSearch, layout: Layout, rows: torch.Tensor) -> None:
        """Take over prompts, each into its row."""
        for mine, idle, theirs in ((self.layout, self._idle, layout), (self.search, self._fresh, search)):
            for field in fields(mine):
                tensor = getattr(mine, field.name)
                tensor.copy_(getattr(idle, field.name))
                tensor[rows] = getattr(theirs, field.name)


class Graphs:
    """Captured steps for several numbers of prompts; captured once, before any image is scored."""

    def __init__(self, writer: Writer, most: int) -> None:
        #: First place of a page for what nobody wants.
        self.scratch = writer.cache.take(page_places(writer.describe))
        sizes = sorted({*(size for size in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64) if size < most), most}, reverse=True)
        self._steps: list[CapturedStep] = []
        pool: Any = None
        for size in sizes:  # the largest first: the others find room in its memory
            step = CapturedStep(writer, size, self.scratch, pool)
            pool = pool or step.graph.pool()
            self._steps.insert(0, step)

    def smallest(self, prompts: int) -> CapturedStep | None:
        """The step for at least so many prompts of each adapter."""
        return next((step for step in self._steps if step.prompts >= prompts), None)


class CapturedDecoding(Decoding):
    """Decoding by graphs; each prompt has its row in a step's tensors, and moves as smaller steps suffice."""

    def __init__(
        self, writer: Writer, graphs: Graphs, search: BeamSearch, layout: Layout, adapters: Sequence[int]
    ) -> None:
        super().__init__(writer, search, layout, adapters)
        self._graphs = graphs
        self._rows: list[int] = []
        self._captured = self._fitting()
        self._settle(search, layout)

    def keep(self, rows: Sequence[int]) -> None:
        index = self._index(rows)
        self._adapters = [self._adapters[row] for row in rows]
        smaller = self._fitting()
        if smaller is self._captured:
            self._rows = [self._rows[row] for row in rows]
            return
        search, layout = self._captured.search.select(index), self._captured.layout.select(index)
        self._captured = smaller
        self._settle(search, layout)

    def advance(self, step: int) -> None:
        self._captured.step.fill_(step)
        self._captured.graph.replay()

    def finished(self) -> list[bool]:
        finished = self._search.finished()
        return [finished[row] for row in self._rows]

    def _fitting(self) -> CapturedStep:
        most = max(self._adapters.count(adapter) for adapter in set(self._adapters))
        step = self._graphs.smallest(most)
        assert step is not None
        return step

    def _settle(self, search: BeamSearch, layout: Layout) -> None:
        seen: dict[int, int] = {}
        self._rows = []
        for adapter in self._adapters:
            self._rows.append(adapter * self._captured.prompts + seen.get(adapter, 0))
            seen[adapter] = seen.get(adapter, 0) + 1
        self._captured.load(search, layout, super()._index(self._rows))
        self._search, self._layout = self._captured.search, self._captured.layout

    def _index(self, rows: Sequence[int]) -> torch.Tensor:
        return super()._index([self._rows[row] for row in rows])
