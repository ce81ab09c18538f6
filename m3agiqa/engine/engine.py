"""The language model made ready for batches: its cache sized, its steps captured."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from m3agiqa.engine.cache import KVCache
from m3agiqa.engine.decoding import Graphs, Writer, page_places, pages
from m3agiqa.engine.llama import Llama
from m3agiqa.engine.session import Session
from m3agiqa.model.tokens import MAX_PROMPT_TOKENS
from m3agiqa.profile import Describe

#: Tokens a prompt is expected to take at most: nine slices and a text. Longer ones share what others leave.
_PROMPT_TOKENS = 1152
#: Generated tokens a prompt is expected to take at most, likewise.
_GENERATED_TOKENS = 256
#: Bytes left free on a GPU for what lies between the layers.
_WORKING_BYTES = 5 * 2**28


class Engine:
    """Runs batches through one language model, one after the other.

    On a GPU the cache is made once, as large as `most` images of all adapters need if memory allows, and the steps of
    decoding are captured as graphs. Elsewhere the cache grows with the batches.
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
        on_gpu = llama.device.type == "cuda"
        places = self._places(describe, most, memory_bytes) if on_gpu else 0
        cache = KVCache(llama.shape, places, llama.device, llama.dtype, fixed=on_gpu)
        self._writer = Writer(llama, cache, describe, torch.tensor(list(eos_ids), device=llama.device))
        self._graphs = Graphs(self._writer, most) if on_gpu else None
        self._idle = cache.taken

    def session(self, embeddings: Sequence[torch.Tensor], adapters: Sequence[int]) -> Session:
        """Read a batch's sequences; what the session before kept is forgotten.

        Args:
            embeddings: [tokens, hidden] of each sequence, sorted by adapter.
            adapters: number of each sequence's adapter; no more than `most` of any.

        Raises:
            ScoringOutOfMemory: the cache has no room for so much.
        """
        self._writer.cache.give_back(self._idle)
        return Session(self._writer, embeddings, adapters, self._graphs)

    def _places(self, describe: Describe, most: int, memory_bytes: int | None) -> int:
        """Places of the cache: what `most` images need and one image may need, or what there is memory for.

        `memory_bytes` is what of the device may be in use at most; None is all of it.
        """
        adapters = len(self._llama.tables)
        page = page_places(describe)
        expected = most * adapters * (_PROMPT_TOKENS + _GENERATED_TOKENS * describe.num_beams)
        longest = adapters * (MAX_PROMPT_TOKENS + pages(describe) * page)
        wanted = max(expected, longest) + page  # one page is for rows that nobody uses
        free, total = torch.cuda.mem_get_info(self._llama.device)
        if memory_bytes is not None:
            free = min(free, memory_bytes - (total - free))
        room = (free - _WORKING_BYTES) // KVCache.place_bytes(self._llama.shape, self._llama.dtype)
        return max(int(min(wanted, room)), 1)
