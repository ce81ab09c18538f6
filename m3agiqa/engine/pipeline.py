"""The way of a batch through the model: encode, describe, rate."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Self

import torch
from torch.nn.utils.rnn import pad_sequence

from m3agiqa.bench.synthetic import random_network
from m3agiqa.bench.workload import Work
from m3agiqa.contract import Failure
from m3agiqa.cutting import Cutter, SlicedImage
from m3agiqa.engine.clock import Clock
from m3agiqa.engine.encoding import Encoded
from m3agiqa.engine.engine import Engine
from m3agiqa.engine.lora import Groups
from m3agiqa.engine.network import Network, Progress, load_network
from m3agiqa.engine.ops import moved
from m3agiqa.engine.rows import Reading, Row, alive, aspect_score, failing_alone
from m3agiqa.engine.session import Session
from m3agiqa.errors import (
    ConfigError,
    DeviceLost,
    ImageTooLarge,
    M3AGIQAError,
    PromptTooLong,
    RequestInvalid,
    ScoringOutOfMemory,
)
from m3agiqa.hub import Resolved
from m3agiqa.jobs import Job, Scores
from m3agiqa.model.random_weights import Shape
from m3agiqa.model.slicing import Grid
from m3agiqa.model.tokens import MAX_PROMPT_TOKENS, Conversation
from m3agiqa.outputs import make_folder
from m3agiqa.profile import ModelProfile

#: Pillow leaves the interpreter to others while it resizes.
_CUTTING_THREADS = 8
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Pipeline:
    """One profile's network on one device. Not thread-safe: one thread owns it."""

    engine = "m3agiqa"

    def __init__(
        self,
        network: Network,
        profile: ModelProfile,
        device: torch.device,
        *,
        max_batch: int = 8,
        memory_bytes: int | None = None,
    ) -> None:
        self.max_batch = max_batch
        self.aspects = tuple(profile.aspects)
        self.dtype = str(network.language.dtype).removeprefix("torch.")
        #: Work of the latest batch.
        self.work: Work | None = None
        self._network = network
        self._profile = profile
        self._device = device
        if device.type == "cuda" and network.language.dtype != torch.float32:
            # For the heads, whose products may then be of TF32 or float16: as exact as float16 leaves their inputs.
            torch.backends.cuda.matmul.allow_tf32 = True
        self._engine = Engine(
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
        progress: Progress = lambda share: None,
    ) -> Self:
        """Load a profile's parts.

        Raises:
            ConfigError: no such device.
            CheckpointError: weights are missing or do not fit.
        """
        target = choose_device(device)
        dtype = torch.float32 if target.type == "cpu" else _DTYPES[profile.dtype]
        if resolved.base is None:
            if target.type == "cpu":
                raise ConfigError(f"profile {profile.name}: random weights at the published shapes need a GPU")
            network = random_network(Shape(), device=target, dtype=dtype, progress=progress)
        else:
            network = load_network(
                resolved.base, resolved.adapters, resolved.heads, device=target, dtype=dtype, progress=progress
            )
        return cls(network, profile, target, max_batch=max_batch)

    @property
    def cutter(self) -> Cutter:
        most = (self._profile.describe.max_slices, *(part.max_slices for part in self._profile.aspects.values()))
        return Cutter(self._network.slicing, tuple(dict.fromkeys(most)))

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job]) -> list[Scores]:
        """Score a batch, in order. A failure of one image and aspect is in its scores; any other is raised."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # each thread has its own, and kernels launch on it
        clock = Clock(self._device)
        rows = self._rows(jobs)
        prompts = self._prompts(rows)
        clock.mark("encode")
        if going := alive(rows):
            session = self._engine.session(prompts, [self._network.adapters[row.aspect] for row in going])
            clock.mark("prefill")
            self._describe(going, session)
            clock.mark("decode")
            self._rate(going, session)
            clock.mark("rate")
        timings = clock.times_ms()
        self.work = Work.of(rows, self._network.towers)
        return [self._scores(job, [row for row in rows if row.job == index], timings) for index, job in enumerate(jobs)]

    def typed(self, error: Exception) -> M3AGIQAError | Exception:
        """The failure an exception of `run` stands for."""
        if self._device.type == "cuda" and not isinstance(error, M3AGIQAError):
            try:
                torch.cuda.synchronize(self._device)
            except RuntimeError:  # once a kernel has gone astray, every call fails
                return DeviceLost(f"{self._device} failed, and with it all that this process has there; start it again")
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return ScoringOutOfMemory(f"{self._device} has no room for one image; free its memory or use a larger GPU")
        return error

    def prepare(self, job: Job) -> Job:
        """Cut an image as its description will want it; safe in any thread, while a batch runs in another.

        Raises nothing: `run` meets again what went wrong, where it gets its type.
        """
        with suppress(ImageTooLarge, RuntimeError):  # a lost device raises the latter
            return replace(job, prepared=self._encoded(job))
        return job

    def _encoded(self, job: Job) -> Encoded:
        if isinstance(job.prepared, Encoded):
            return job.prepared
        image = job.image if isinstance(job.image, SlicedImage) else self.cutter.cut(job.image)
        return Encoded(image, self._network.slicing, self._device)

    def _rows(self, jobs: Sequence[Job]) -> list[Row]:
        """A row per image and aspect, sorted by aspect as the adapters are."""
        with ThreadPoolExecutor(_CUTTING_THREADS) as pool:
            images = list(pool.map(self._encoded, jobs))
        rows = []
        for aspect, profile in self._profile.aspects.items():
            for index, job in enumerate(jobs):
                if aspect in (job.aspects or self.aspects):
                    analysis = profile.analysis.replace("{prompt}", job.prompt)
                    given = job.descriptions.get(aspect)
                    rows.append(Row(index, aspect, images[index], profile, analysis, given))
        return rows

    def _scores(self, job: Job, rows: Sequence[Row], timings: dict[str, float]) -> Scores:
        unknown = RequestInvalid(f"model {self._profile.name} scores {', '.join(self.aspects)} only")
        failures = {aspect: Failure.from_error(unknown) for aspect in job.aspects or () if aspect not in self.aspects}
        return Scores(
            aspects={row.aspect: row.score for row in rows if row.score is not None},
            failures=failures | {row.aspect: row.failure for row in rows if row.failure is not None},
            timings_ms=timings,
        )

    def _prompts(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """Embeddings [tokens, hidden] of what each row is asked, those that fail left out."""
        for row in rows:
            with failing_alone(row):
                row.image.cut(row.image.grid(self._profile.describe.max_slices))
        Encoded.encode_together(
            (row.image, self._network.towers[row.aspect], row.image.grid(self._profile.describe.max_slices))
            for row in alive(rows)
        )
        readings = []
        for row in alive(rows):
            with failing_alone(row):
                grid = row.image.grid(self._profile.describe.max_slices)
                prompt = self._network.tokenizer.generation_prompt(grid, row.analysis)
                if len(prompt.ids) > MAX_PROMPT_TOKENS:
                    raise PromptTooLong(
                        f"{row.aspect}: image and prompt take {len(prompt.ids)} tokens of {MAX_PROMPT_TOKENS}; "
                        "shorten the prompt"
                    )
                readings.append(Reading(grid, prompt, prompt.ids, known=0))
                row.grid, row.prompt = grid, prompt
        return self._embed(alive(rows), readings)

    def _describe(self, rows: Sequence[Row], session: Session) -> None:
        """Have the adapted model write the descriptions, unless all are given."""
        if any(row.given is None for row in rows):
            for row, ids in zip(rows, session.generate(), strict=True):
                row.description, row.generated = self._network.tokenizer.decode(ids), len(ids)
        for row in rows:
            row.description = row.description if row.given is None else row.given

    def _rate(self, rows: Sequence[Row], session: Session) -> None:
        """Score each row from the model's states over the whole conversation.

        What was read before the description is not read again, as far as the ids and the image's slices agree.
        """
        readings: dict[int, Reading] = {}
        for number, row in enumerate(rows):
            with failing_alone(row):
                readings[number] = row.reading = self._reading(row)
        states: dict[int, torch.Tensor] = {}
        for anew in (False, True):
            part = {number: reading for number, reading in readings.items() if (reading.known == 0) is anew}
            if part:
                known = [reading.known for reading in part.values()]
                Encoded.encode_together(
                    (rows[number].image, self._network.towers[rows[number].aspect], reading.grid)
                    for number, reading in part.items()
                    if reading.known == 0
                )
                embeddings = self._embed([rows[number] for number in part], list(part.values()))
                read = session.read(list(part), known, embeddings)
                for number, count, new in zip(part, known, read, strict=True):
                    states[number] = torch.cat([session.states[number][:count], new])
        scored = []
        for aspect, head in self._network.heads.items():
            of = [number for number in sorted(states) if rows[number].aspect == aspect]
            if of:
                lengths = moved(torch.tensor([len(states[number]) for number in of]), self._device)
                scored.append((of, head(pad_sequence([states[number] for number in of], batch_first=True), lengths)))
        for of, raw in scored:  # only now: asking waits for the device
            for number, score in zip(of, raw.tolist(), strict=True):
                with failing_alone(rows[number]):
                    rows[number].score = aspect_score(rows[number], score)

    def _reading(self, row: Row) -> Reading:
        grid, conversation = self._fit(row)
        ids = conversation.ids[: row.profile.context]
        known = 0
        if row.prompt is not None and grid == row.grid:
            agree = [mine == theirs for mine, theirs in zip(ids, row.prompt.ids, strict=False)]
            known = agree.index(False) if False in agree else len(agree)
            known = min(known, len(ids) - 1)  # something is to be read
        return Reading(grid, conversation, ids, known)

    def _fit(self, row: Row) -> tuple[Grid, Conversation]:
        """The finest grid with which image, analysis and description fit the head's context.

        Where the original would cut off the description, or the image's own tokens, the image is sliced again into
        fewer slices. If the overview alone leaves no room for all of the description, its end is cut.

        Raises:
            PromptTooLong: not even the overview and the analysis fit.
        """
        tokenizer = self._network.tokenizer
        for max_slices in range(row.profile.max_slices, 0, -1):
            grid = row.image.grid(max_slices)
            conversation = tokenizer.scoring_conversation(grid, row.analysis, row.description, row.profile.question)
            if conversation.described <= row.profile.context:
                return grid, conversation
        asked = len(tokenizer.generation_prompt(grid, row.analysis).ids)
        if asked >= row.profile.context:
            raise PromptTooLong(
                f"{row.aspect}: image and prompt take {asked} tokens of the head's {row.profile.context}; "
                "shorten the prompt"
            )
        return grid, conversation

    def _embed(self, rows: Sequence[Row], readings: Sequence[Reading]) -> list[torch.Tensor]:
        """Embeddings [tokens, hidden] of the ids of each reading that are new, the image's in their places."""
        if not rows:
            return []
        llama = self._network.language
        new = [reading.ids[reading.known :] for reading in readings]
        lengths = [len(ids) for ids in new]
        groups = Groups.of_sequences((self._network.adapters[row.aspect] for row in rows), lengths, len(llama.tables))
        embedded = llama.embed(moved(torch.tensor([id_ for ids in new for id_ in ids]), self._device), groups)
        images, places = [], []
        for row, reading, first in zip(rows, readings, accumulate(lengths, initial=0), strict=False):
            if reading.known == 0:
                images.append(row.image.embeddings(self._network.towers[row.aspect], reading.grid).flatten(0, 1))
                places += [torch.arange(first + start, first + end) for start, end in reading.conversation.image_bounds]
        if images:
            embedded.index_copy_(0, moved(torch.cat(places), self._device), torch.cat(images))
        return list(embedded.split(lengths))


def choose_device(name: str) -> torch.device:
    """The device for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"no device {name!r}; use cpu, cuda, cuda:N or auto") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"no device {name!r}: torch sees {torch.cuda.device_count()} GPUs")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported; use cpu, cuda, cuda:N or auto")
    if device.type == "cpu":
        return device
    give_kernels_a_folder()
    return torch.device("cuda", device.index or 0)


def give_kernels_a_folder() -> None:
    """Have Triton keep what it compiles in a folder of this process where there is no home that can be written to."""
    if "TRITON_CACHE_DIR" in os.environ:
        return
    try:
        make_folder(Path.home() / ".triton")
    except (RuntimeError, RequestInvalid):
        os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(prefix="m3agiqa-triton-")
