"""Takes a batch through the model, from images to scores: `Engine.run`, and each of its steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from typing import Self

import torch
from torch.nn.utils.rnn import pad_sequence

from m3agiqa.contract import Failure
from m3agiqa.cutting import Cutter, SlicedImage
from m3agiqa.engine.clock import Clock
from m3agiqa.engine.decoding import ModelRunner
from m3agiqa.engine.encoding import EncodedImage
from m3agiqa.engine.loading import Network, choose_device, load_network
from m3agiqa.engine.lora import Groups
from m3agiqa.engine.ops import moved
from m3agiqa.engine.rows import Row, alive, failing_alone
from m3agiqa.engine.session import Session
from m3agiqa.errors import (
    ConfigError,
    DeviceLost,
    ImageTooLarge,
    M3AGIQAError,
    RequestInvalid,
    ScoringOutOfMemory,
)
from m3agiqa.hub import Resolved
from m3agiqa.jobs import Job, Scores
from m3agiqa.model.float8 import check_device
from m3agiqa.model.shape import Shape
from m3agiqa.model.slicing import Grid
from m3agiqa.model.tokens import TokenizedConversation
from m3agiqa.profile import ModelProfile
from m3agiqa.progress import Progress, unseen

#: Threads that cut images: Pillow leaves the interpreter to others while it resizes.
_CUTTING_THREADS = 8
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Engine:
    """One profile's network on one device. One thread owns it; only `prepare` is safe in others."""

    name = "m3agiqa"

    def __init__(
        self,
        network: Network,
        profile: ModelProfile,
        device: torch.device,
        *,
        max_batch: int = 8,
        memory_bytes: int | None = None,
    ) -> None:
        self.network = network
        self.max_batch = max_batch
        self.aspects = tuple(profile.aspects)
        self.dtype = network.language.precision
        self._profile = profile
        self._device = device
        self._runner = ModelRunner(
            network.language,
            profile.describe,
            network.tokenizer.eos_ids,
            most=max_batch,
            memory_bytes=memory_bytes,
        )

    @classmethod
    def load(
        cls,
        profile: ModelProfile,
        resolved: Resolved,
        device: str,
        *,
        max_batch: int = 8,
        heads: bool = True,
        progress: Progress = unseen,
    ) -> Self:
        """Load a profile's parts; without `heads`, an engine that reads and does not rate.

        Raises:
            ConfigError: there is no such device, or it lacks the profile's precision.
            CheckpointError: weights are missing or do not fit.
        """
        target = choose_device(device)
        dtype = torch.float32 if target.type == "cpu" else _DTYPES[profile.dtype]
        if float8 := profile.precision == "float8" and target.type == "cuda":
            check_device(target)
        if resolved.base is not None:
            paths = resolved.heads if heads else None
            network = load_network(
                *(resolved.base, resolved.adapters, paths),
                device=target,
                dtype=dtype,
                float8=float8,
                progress=progress,
            )
        elif target.type == "cpu":
            raise ConfigError(f"profile {profile.name}: random weights at the published shapes need a GPU")
        else:
            from m3agiqa.bench.synthetic import random_network  # only random weights need it

            network = random_network(Shape(), device=target, dtype=dtype, float8=float8, progress=progress)
        return cls(network, profile, target, max_batch=max_batch)

    @property
    def cutter(self) -> Cutter:
        most = (self._profile.describe.max_slices, *(part.max_slices for part in self._profile.aspects.values()))
        return Cutter(self.network.slicing, tuple(dict.fromkeys(most)))

    def prepare(self, job: Job) -> Job:
        """Cut an image as its description will want it; safe in any thread, while a batch runs in another.

        An error is left to `encode`, which repeats the work and gives the error its type.
        """
        with suppress(ImageTooLarge, RuntimeError):  # RuntimeError: the device is lost
            return replace(job, prepared=self._prepared(job))
        return job

    def run(self, jobs: Sequence[Job]) -> list[Scores]:
        """Score a batch, in order.

        A failure of one image and aspect is in that image's `Scores`; one of the whole batch is raised.
        """
        clock = Clock(self._device)
        rows = self.encode(jobs)
        clock.mark("encode")
        session = self.prefill(rows)
        clock.mark("prefill")
        self.describe(rows, session)
        clock.mark("decode")
        states = self.read(rows, session)
        self.rate(rows, states)
        clock.mark("rate")
        timings = clock.times_ms()
        return [self._scores(job, [row for row in rows if row.job == index], timings) for index, job in enumerate(jobs)]

    @torch.inference_mode()
    def encode(self, jobs: Sequence[Job]) -> list[Row]:
        """A row for every image and aspect, sorted by aspect as the adapters are, with image and prompt made ready."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # each thread has its own current device, on which kernels launch
        most = self._profile.describe.max_slices
        rows = self._rows(jobs)
        for row in rows:
            with failing_alone(row):
                row.image.cut(row.image.grid(most))
        self._encode((row, row.image.grid(most)) for row in alive(rows))
        for row in alive(rows):
            with failing_alone(row):
                row.ask(self.network.tokenizer, most)
        return rows

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Row]) -> Session:
        """Read the prompts; the session has a sequence for each row that is alive, and ends the one before."""
        asked = alive(rows)
        embeddings = self._embed(asked, [row.prompt for row in asked], [0] * len(asked))
        return Session(self._runner, embeddings, [self.network.adapters[row.aspect] for row in asked])

    @torch.inference_mode()
    def describe(self, rows: Sequence[Row], session: Session) -> None:
        """Let the model write the descriptions, unless all are given."""
        described = alive(rows)
        if any(row.given is None for row in described):
            for row, ids in zip(described, session.generate([row.limit for row in described]), strict=True):
                row.description, row.generated = self.network.tokenizer.decode(ids), ids
        for row in described:
            row.description = row.description if row.given is None else row.given

    @torch.inference_mode()
    def read(self, rows: Sequence[Row], session: Session) -> list[torch.Tensor]:
        """States [tokens, hidden] of the whole conversation, for each row that has not failed when this returns.

        Tokens that a conversation shares with its prompt and with what the model wrote behind it (same ids, same
        slices) keep the states of `prefill` and `describe`. A conversation that shares none has its image encoded in
        other slices first.
        """
        # No row fails between `prefill` and here, so the session's sequences are the rows alive now.
        sequences = dict(enumerate(alive(rows)))
        for row in sequences.values():
            with failing_alone(row):
                row.converse(self.network.tokenizer)
        for anew in (False, True):
            going = {number: row for number, row in sequences.items() if row.failure is None}
            part = {number: row for number, row in going.items() if anew == (row.known == 0)}
            if anew:
                self._encode((row, row.conversation.grid) for row in part.values())
            conversations, known = [row.conversation for row in part.values()], [row.known for row in part.values()]
            session.read(list(part), known, self._embed(list(part.values()), conversations, known))
        return [session.states[number] for number, row in sequences.items() if row.failure is None]

    @torch.inference_mode()
    def rate(self, rows: Sequence[Row], states: Sequence[torch.Tensor]) -> None:
        """Let the heads score the states that `read` returned; each row gets a score or a failure."""
        exact = self.network.language.dtype == torch.float32
        rated = list(zip(alive(rows), states, strict=True))
        scored = []
        for aspect, head in self.network.heads.items():
            if own := [(row, read) for row, read in rated if row.aspect == aspect]:
                lengths = moved(torch.tensor([len(read) for _, read in own]), self._device)
                padded = pad_sequence([read for _, read in own], batch_first=True)
                scored.append((own, head(padded, lengths, exact=exact)))
        for own, raw in scored:  # after every head was started: `tolist` waits for the device
            for (row, _), score in zip(own, raw.tolist(), strict=True):
                with failing_alone(row):
                    row.rate(score)

    def typed(self, error: Exception) -> M3AGIQAError | Exception:
        """The typed failure for an exception that `run` raised."""
        if self._device.type == "cuda" and not isinstance(error, M3AGIQAError):
            try:
                torch.cuda.synchronize(self._device)
            except RuntimeError:  # once a kernel has gone astray, every call fails
                return DeviceLost(f"{self._device} failed, and with it all that this process has there; start it again")
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return ScoringOutOfMemory(f"{self._device} has no room for one image; free its memory or use a larger GPU")
        return error

    def _prepared(self, job: Job) -> EncodedImage:
        if job.prepared is not None:
            return job.prepared
        image = job.image if isinstance(job.image, SlicedImage) else self.cutter.cut(job.image)
        return EncodedImage(image, self.network.slicing, self._device)

    def _rows(self, jobs: Sequence[Job]) -> list[Row]:
        with ThreadPoolExecutor(_CUTTING_THREADS) as pool:
            images = list(pool.map(self._prepared, jobs))
        rows = []
        for aspect, profile in self._profile.aspects.items():
            for index, job in enumerate(jobs):
                if aspect in (job.aspects or self.aspects):
                    analysis = profile.analysis.replace("{prompt}", job.prompt)
                    given = job.descriptions.get(aspect)
                    limit = job.limits.get(aspect)
                    rows.append(Row(index, aspect, images[index], profile, analysis, given, limit))
        return rows

    def _scores(self, job: Job, rows: Sequence[Row], timings: dict[str, float]) -> Scores:
        unknown = RequestInvalid(f"model {self._profile.name} scores {', '.join(self.aspects)} only")
        failures = {aspect: Failure.from_error(unknown) for aspect in job.aspects or () if aspect not in self.aspects}
        return Scores(
            aspects={row.aspect: row.score for row in rows if row.score is not None},
            failures=failures | {row.aspect: row.failure for row in rows if row.failure is not None},
            timings_ms=timings,
        )

    def _encode(self, wanted: Iterable[tuple[Row, Grid]]) -> None:
        """Make the embeddings of the rows' images along these grids."""
        EncodedImage.encode_together((row.image, self.network.towers[row.aspect], grid) for row, grid in wanted)

    def _embed(
        self, rows: Sequence[Row], conversations: Sequence[TokenizedConversation], known: Sequence[int]
    ) -> list[torch.Tensor]:
        """Embeddings [tokens, hidden] of each conversation's tokens behind the `known` ones, the image's among them."""
        if not rows:
            return []
        llama = self.network.language
        new = [conversation.ids[count:] for conversation, count in zip(conversations, known, strict=True)]
        lengths = [len(ids) for ids in new]
        adapters = (self.network.adapters[row.aspect] for row in rows)
        groups = Groups.from_sequences(adapters, lengths, len(llama.tables))
        embedded = llama.embed(moved(torch.tensor([id_ for ids in new for id_ in ids]), self._device), groups)
        images, positions = [], []
        starts = accumulate(lengths, initial=0)
        for row, conversation, count, first in zip(rows, conversations, known, starts, strict=False):
            if count == 0:
                images.append(row.image.embeddings(self.network.towers[row.aspect], conversation.grid).flatten(0, 1))
                positions += [torch.arange(first + start, first + end) for start, end in conversation.image_bounds]
        if images:
            embedded.index_copy_(0, moved(torch.cat(positions), self._device), torch.cat(images))
        return list(embedded.split(lengths))
