"""The language model made ready for batches: its cache sized, its steps captured."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from m3agiqa.engine.cache import KVCache
from m3agiqa.engine.decoding import Graphs, Writer, page_places, pages
from m3agiqa.engine.llama import Llama
from m3agiqa.engine.session import Session
from m3agiqa.profile import Describe

#: Tokens a prompt is expected to take at most: nine slices and a text. Longer ones share what others leave.
_PROMPT_TOKENS = 1152
#: Generated tokens a prompt is expected to take at most, likewise.
_GENERATED_TOKENS = 256
#: Bytes left free on a GPU for what lies between the layers.
_WORKING_BYTES = 2 * 2**30


class Engine:
    """Runs batches through one language model, one after the other.

    On a GPU the cache is made once, as large as `most` pictures of all adapters need if memory allows, and the steps of
    decoding are captured as graphs. Elsewhere each batch has a cache of its own size.
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
        self._llama = llama
        self._describe = describe
        self._eos_ids = torch.tensor(list(eos_ids), device=llama.device)
        self._most = most
        self._writer: Writer | None = None
        self._graphs: Graphs | None = None
        if llama.device.type == "cuda":
            cache = KVCache(llama.shape, self._places(memory_bytes), llama.device, llama.dtype)
            self._writer = Writer(llama, cache, describe, self._eos_ids)
            self._graphs = Graphs(self._writer, most)

    def session(self, embeddings: Sequence[torch.Tensor], adapters: Sequence[int], room: Sequence[int]) -> Session:
        """Read a batch's sequences; what the session before kept is forgotten.

        Args:
            embeddings: [tokens, hidden] of each sequence, sorted by adapter.
            adapters: number of each sequence's adapter; no more than `most` of any.
            room: tokens by which each sequence may still be read on.

        Raises:
            ScoringOutOfMemory: the cache has no room for so much.
        """
        if self._writer is None:
            generated = len(embeddings) * pages(self._describe) * page_places(self._describe)
            places = sum(map(len, embeddings)) + sum(room) + generated
            cache = KVCache(self._llama.shape, places, self._llama.device, self._llama.dtype)
            return Session(Writer(self._llama, cache, self._describe, self._eos_ids), embeddings, adapters, room)
        self._writer.cache.clear()
        return Session(self._writer, embeddings, adapters, room, self._graphs)

    def _places(self, memory_bytes: int | None) -> int:
        """Places of the cache: what `most` pictures need, or what there is memory for.

        `memory_bytes` is what of the device may be in use at most; None is all of it.
        """
        rows = self._most * len(self._llama.tables)
        wanted = rows * (_PROMPT_TOKENS + _GENERATED_TOKENS * self._describe.num_beams)
        free, total = torch.cuda.mem_get_info(self._llama.device)
        if memory_bytes is not None:
            free = min(free, memory_bytes - (total - free))
        room = (free - _WORKING_BYTES) // KVCache.place_bytes(self._llama.shape, self._llama.dtype)
        return max(int(min(wanted, room)), 1)
