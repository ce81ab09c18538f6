"""Runs the language model for batches, and the decoding steps that write a token for every beam of every prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

import torch

from m3agiqa.engine import ops
from m3agiqa.engine.attention import decode_attention
from m3agiqa.engine.cache import PAGE_STEPS, KVCache, Layout
from m3agiqa.engine.llama import Llama
from m3agiqa.engine.lora import Groups
from m3agiqa.engine.search import BeamSearch, GreedySearch
from m3agiqa.model.tokens import MAX_PROMPT_TOKENS
from m3agiqa.profile import Describe

#: Most tokens that a prompt is expected to take: nine slices and a text. Longer prompts use slots that others leave.
_PROMPT_TOKENS = 1152
#: Most generated tokens that a prompt is expected to take, likewise.
_GENERATED_TOKENS = 256
#: Bytes left free on a GPU for activations between the layers.
_WORKING_BYTES = 5 * 2**28
#: Prompts of each adapter for which a GPU captures a step, beside the most that a batch has.
_CAPTURED_PROMPTS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)


class ModelRunner:
    """Runs batches through one language model, one after the other.

    On a GPU the cache is made once, as large as `most` images of all adapters need if memory allows, and the steps of
    decoding are captured as graphs. Elsewhere the cache grows with the batches.

    Args:
        llama: the model.
        describe: how descriptions are written.
        eos_ids: end tokens.
        most: most prompts of each adapter in a batch.
        memory_bytes: most bytes of the device that may be in use; None allows all of them.
    """

    def __init__(
        self,
        llama: Llama,
        describe: Describe,
        eos_ids: Sequence[int],
        *,
        most: int,
        memory_bytes: int | None = None,
    ) -> None:
        self.llama, self.describe = llama, describe
        self.eos_ids = torch.tensor(list(eos_ids), device=llama.device)
        on_gpu = llama.device.type == "cuda"
        slots = self._affordable_slots(most, memory_bytes) if on_gpu else 0
        self.cache = KVCache(llama.shape, slots, llama.device, llama.dtype, fixed=on_gpu)
        #: Captured steps, the smallest first.
        self.captured: list[CapturedStep] = []
        #: First slot of the scratch page, which unused rows read and write; only captured steps have such rows.
        self.scratch = 0
        self._idle = self.cache.taken
        if on_gpu:
            self.capture(most)

    @property
    def pages(self) -> int:
        """Most pages of the cache that one prompt's generated tokens take."""
        return -(-self.describe.max_new_tokens // PAGE_STEPS)

    @property
    def page_slots(self) -> int:
        """Slots in a page: all beams' tokens of PAGE_STEPS steps."""
        return PAGE_STEPS * self.describe.num_beams

    def capture(self, most: int) -> None:
        """Capture steps for several numbers of prompts, up to `most` of each adapter."""
        self.scratch = self.cache.take(self.page_slots)
        sizes = sorted({*(size for size in _CAPTURED_PROMPTS if size < most), most}, reverse=True)
        pool: Any = None
        for size in sizes:  # the largest first: the others find room in its memory
            step = CapturedStep(self, size, pool)
            pool = pool or step.graph.pool()
            self.captured.insert(0, step)
        self._idle = self.cache.taken

    def forget(self) -> None:
        """Free the whole cache for another batch."""
        self.cache.give_back(self._idle)

    def search(self, limits: Sequence[int | None]) -> BeamSearch:
        """A search for prompts with at most so many tokens each; None allows as many as `describe` does."""
        kind = GreedySearch if self.describe.num_beams == 1 else BeamSearch
        return kind.start(limits, self.describe, self.llama.device)

    def step(self, search: BeamSearch, layout: Layout, adapters: Sequence[int]) -> tuple[DecodeStep, list[int]]:
        """A step that continues these prompts, and the row that each has in it.

        Args:
            search, layout: the prompts' search, and their layout in the cache.
            adapters: number of each prompt's adapter, sorted.
        """
        captured = self._smallest_captured(adapters)
        if captured is None:
            return DecodeStep(self, search, layout, adapters), list(range(len(adapters)))
        return captured, captured.load(search, layout, adapters)

    def narrow(self, step: DecodeStep, rows: Sequence[int], adapters: Sequence[int]) -> tuple[DecodeStep, list[int]]:
        """Go on with the prompts in these rows of `step` alone, by a smaller step where there is one."""
        if self._smallest_captured(adapters) is step:
            return step, list(rows)
        index = torch.tensor(list(rows), device=self.llama.device)
        return self.step(step.search.select(index), step.layout.select(index), adapters)

    def _smallest_captured(self, adapters: Sequence[int]) -> CapturedStep | None:
        if not self.captured:
            return None
        most = max(len(list(same)) for _, same in groupby(adapters))
        return next(step for step in self.captured if step.prompts >= most)

    def _affordable_slots(self, most: int, memory_bytes: int | None) -> int:
        """Slots for `most` images of expected length and for one of the greatest, or as many as memory allows."""
        llama = self.llama
        adapters = len(llama.tables)
        expected = most * adapters * (_PROMPT_TOKENS + _GENERATED_TOKENS * self.describe.num_beams)
        longest = adapters * (MAX_PROMPT_TOKENS + self.pages * self.page_slots)
        wanted = max(expected, longest) + self.page_slots  # one page is the scratch page
        free, total = torch.cuda.mem_get_info(llama.device)
        if memory_bytes is not None:
            free = min(free, memory_bytes - (total - free))
        room = (free - _WORKING_BYTES) // KVCache.slot_bytes(llama.shape, llama.dtype)
        return max(int(min(wanted, room)), 1)


class DecodeStep:
    """A decoding step that runs again and again: its tensors stay, with a row for every prompt, sorted by adapter."""

    def __init__(self, runner: ModelRunner, search: BeamSearch, layout: Layout, adapters: Sequence[int]) -> None:
        self.search, self.layout = search, layout
        # No reference to the runner: the two would hold each other, and the runner's memory would be freed late.
        self._llama, self._cache = runner.llama, runner.cache
        self._describe, self._eos_ids = runner.describe, runner.eos_ids
        beams = runner.describe.num_beams
        counts = [(adapter, beams * len(list(same))) for adapter, same in groupby(adapters)]
        self._groups = Groups.from_counts(counts, len(runner.llama.tables))
        #: Tokens generated so far.
        self._count = torch.ones(1, dtype=torch.int64, device=runner.llama.device)

    def run(self, count: int) -> None:
        """Write the token after the first `count`."""
        self._count.fill_(count)
        self._compute()

    def _compute(self) -> None:
        """Run every beam's newest token through the model, and choose the next."""
        llama, cache, count = self._llama, self._cache, self._count
        beams = self._describe.num_beams
        slots = self.layout.current(count - 1, beams)
        positions = (self.layout.lengths + count - 1).repeat_interleave(beams)

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            keys, values = cache.keys[layer], cache.values[layer]
            queries = ops.rotate_and_store(qkv, positions, llama.frequencies, slots, keys, values)
            return decode_attention(queries, keys, values, self.layout, self.search.ancestors, count)

        states = llama.forward(llama.embed(self.search.latest(count), self._groups), self._groups, attend)
        cache.states.index_copy_(0, slots, states)
        self.search.advance(llama.logits(states), count, self._eos_ids, self._describe.repetition_penalty)


class CapturedStep(DecodeStep):
    """A step as a CUDA graph, with as many rows as `prompts` prompts of every adapter need."""

    def __init__(self, runner: ModelRunner, prompts: int, pool: Any) -> None:
        device, adapters = runner.llama.device, len(runner.llama.tables)
        rows = adapters * prompts
        #: Unused rows read and write the scratch page.
        self._idle = Layout(
            starts=torch.full((rows,), runner.scratch, dtype=torch.int32, device=device),
            lengths=torch.ones(rows, dtype=torch.int32, device=device),
            pages=torch.full((rows, runner.pages), runner.scratch, dtype=torch.int32, device=device),
        )
        self._fresh = runner.search([None] * rows)
        # An unused row, too, needs a token to go on from.
        self._fresh.tokens.zero_()
        everyone = torch.arange(rows, device=device)
        by_adapter = [adapter for adapter in range(adapters) for _ in range(prompts)]
        super().__init__(runner, self._fresh.select(everyone), self._idle.select(everyone), by_adapter)
        self.prompts = prompts
        self.graph = capture(self._compute, device, pool)

    def run(self, count: int) -> None:
        self._count.fill_(count)
        self.graph.replay()

    def load(self, search: BeamSearch, layout: Layout, adapters: Sequence[int]) -> list[int]:
        """Take over prompts, and say which row each has."""
        rows = [adapter * self.prompts + at for adapter, same in groupby(adapters) for at, _ in enumerate(same)]
        index = torch.tensor(rows, device=self._count.device)
        for mine, idle, theirs in ((self.layout, self._idle, layout), (self.search, self._fresh, search)):
            for field in fields(mine):
                tensor = getattr(mine, field.name)
                tensor.copy_(getattr(idle, field.name))
                tensor[index] = getattr(theirs, field.name)
        return rows


def capture(work: Callable[[], None], device: torch.device, pool: Any) -> torch.cuda.CUDAGraph:
    """Capture `work` as a graph, after two runs in which kernels and libraries set themselves up."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(2):
            work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        work()
    return graph
