"""The way of a batch through the model: encode, describe, rate."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Self

import torch

from m3agiqa.contract import Aspect, AspectScore, Failure, Rating
from m3agiqa.errors import (
    ConfigError,
    ImageTooLarge,
    M3AGIQAError,
    PromptTooLong,
    RequestInvalid,
    ScoreNotFinite,
    ScoringOutOfMemory,
)
from m3agiqa.hub import Resolved
from m3agiqa.images import Picture
from m3agiqa.jobs import Job, Scores
from m3agiqa.model.network import Network, load_network
from m3agiqa.model.slicing import MAX_PATCHES, Grid, Slices, choose_grid, slice_picture
from m3agiqa.model.tokens import MAX_PROMPT_TOKENS, Conversation
from m3agiqa.model.vision import Tower
from m3agiqa.profile import AspectProfile, ModelProfile

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Encoded:
    """One picture's slices and embeddings, each made once per grid and tower."""

    def __init__(self, picture: Picture) -> None:
        self.width, self.height = picture.rgb.size
        self._rgb = picture.rgb
        self._slices: dict[Grid, Slices] = {}
        self._embeddings: dict[tuple[int, Grid], torch.Tensor] = {}

    def grid(self, max_slices: int) -> Grid:
        return choose_grid(self.width, self.height, max_slices)

    def embeddings(self, tower: Tower, grid: Grid) -> torch.Tensor:
        """[1 + slices, query_num, hidden]."""
        if (id(tower), grid) not in self._embeddings:
            self._embeddings[id(tower), grid] = tower(self._cut(grid))
        return self._embeddings[id(tower), grid]

    def _cut(self, grid: Grid) -> Slices:
        if grid not in self._slices:
            slices = slice_picture(self._rgb, grid)
            if max(height * width for height, width in slices.sizes) > MAX_PATCHES:
                raise ImageTooLarge(f"{self.width}x{self.height}: sides too unequal to be cut into slices")
            self._slices[grid] = slices
        return self._slices[grid]


@dataclass
class Row:
    """One picture's way through one aspect."""

    job: int
    aspect: Aspect
    picture: Encoded
    profile: AspectProfile
    analysis: str
    description: str = ""
    score: AspectScore | None = None
    failure: Failure | None = None


class Pipeline:
    """One profile's network on one device. Not thread-safe: one thread owns it."""

    engine = "transformers"

    def __init__(self, network: Network, profile: ModelProfile, device: torch.device) -> None:
        self.aspects = tuple(profile.aspects)
        self.dtype = str(network.language.llm.dtype).removeprefix("torch.")
        self._network = network
        self._profile = profile
        self._device = device

    @classmethod
    def load(cls, profile: ModelProfile, resolved: Resolved, device: str) -> Self:
        """Load a profile's parts.

        Raises:
            ConfigError: no such device.
            CheckpointError: weights are missing or do not fit.
        """
        target = choose_device(device)
        network = load_network(
            resolved.base,
            resolved.adapters,
            resolved.heads,
            device=target,
            dtype=torch.float32 if target.type == "cpu" else _DTYPES[profile.dtype],
        )
        return cls(network, profile, target)

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job]) -> list[Scores]:
        """Score a batch, in order. A failure of one picture and aspect is in its scores; any other is raised."""
        timings: dict[str, float] = {}
        rows = self._rows(jobs)
        with self._timed("describe", timings):
            self._describe(rows)
        with self._timed("rate", timings):
            self._rate(rows)
        return [self._scores(job, [row for row in rows if row.job == index], timings) for index, job in enumerate(jobs)]

    def typed(self, error: Exception) -> M3AGIQAError | Exception:
        """The failure an exception of `run` stands for."""
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return ScoringOutOfMemory(
                f"{self._device} has no room for one picture; free its memory or use a larger GPU"
            )
        return error

    def _rows(self, jobs: Sequence[Job]) -> list[Row]:
        """A row per picture and aspect, sorted by aspect as the adapters are."""
        pictures = [Encoded(job.picture) for job in jobs]
        rows = []
        for aspect, profile in self._profile.aspects.items():
            for index, job in enumerate(jobs):
                if aspect in (job.aspects or self.aspects):
                    analysis = profile.analysis.replace("{prompt}", job.prompt)
                    rows.append(Row(index, aspect, pictures[index], profile, analysis))
        return rows

    def _scores(self, job: Job, rows: Sequence[Row], timings: dict[str, float]) -> Scores:
        unknown = RequestInvalid(f"model {self._profile.name} scores {', '.join(self.aspects)} only")
        failures = {aspect: Failure.of(unknown) for aspect in job.aspects or () if aspect not in self.aspects}
        return Scores(
            aspects={row.aspect: row.score for row in rows if row.score is not None},
            failures=failures | {row.aspect: row.failure for row in rows if row.failure is not None},
            timings_ms=timings,
        )

    def _describe(self, rows: Sequence[Row]) -> None:
        """Have the adapted model write each row's description."""
        settings = self._profile.describe
        prompts = []
        for row in rows:
            with _failing_alone(row):
                grid = row.picture.grid(settings.max_slices)
                conversation = self._network.tokenizer.generation_prompt(grid, row.analysis)
                if len(conversation.ids) > MAX_PROMPT_TOKENS:
                    raise PromptTooLong(
                        f"{row.aspect}: picture and prompt take {len(conversation.ids)} tokens of {MAX_PROMPT_TOKENS}; "
                        "shorten the prompt"
                    )
                prompts.append(self._embed(row, grid, conversation, conversation.ids))
        alive = _alive(rows)
        if alive:
            generated = self._network.language.generate(
                prompts, self._groups(alive), settings, self._network.tokenizer.eos_ids
            )
            for row, ids in zip(alive, generated, strict=True):
                row.description = self._network.tokenizer.decode(ids)

    def _rate(self, rows: Sequence[Row]) -> None:
        """Score each row from the model's states over the whole conversation."""
        conversations: list[torch.Tensor] = []
        fitted: list[tuple[Grid, int]] = []
        for row in _alive(rows):
            with _failing_alone(row):
                grid, conversation = self._fit(row)
                kept = conversation.ids[: row.profile.context]
                conversations.append(self._embed(row, grid, conversation, kept))
                fitted.append((grid, len(conversation.ids) - len(kept)))
        alive = _alive(rows)
        if not alive:
            return
        states = self._network.language.hidden_states(conversations, self._groups(alive))
        lengths = torch.tensor([len(conversation) for conversation in conversations], device=self._device)
        raw: list[float] = []
        start = 0
        for aspect, count in self._counts(alive):
            group = slice(start, start + count)
            longest = int(lengths[group].max())
            raw += self._network.heads[aspect](states[group, :longest], lengths[group]).tolist()
            start += count
        for row, (grid, cut_tokens), score in zip(alive, fitted, raw, strict=True):
            with _failing_alone(row):
                row.score = _aspect_score(row, grid, cut_tokens, score)

    def _fit(self, row: Row) -> tuple[Grid, Conversation]:
        """The finest grid with which image, analysis and description fit the head's context.

        Where the original would cut off the description, or the picture's own tokens, the picture is sliced again into
        fewer slices. If the overview alone leaves no room for all of the description, its end is cut.

        Raises:
            PromptTooLong: not even the overview and the analysis fit.
        """
        tokenizer = self._network.tokenizer
        for max_slices in range(row.profile.max_slices, 0, -1):
            grid = row.picture.grid(max_slices)
            conversation = tokenizer.scoring_conversation(grid, row.analysis, row.description, row.profile.question)
            if conversation.described <= row.profile.context:
                return grid, conversation
        asked = len(tokenizer.generation_prompt(grid, row.analysis).ids)
        if asked >= row.profile.context:
            raise PromptTooLong(
                f"{row.aspect}: picture and prompt take {asked} tokens of the head's {row.profile.context}; "
                "shorten the prompt"
            )
        return grid, conversation

    def _embed(self, row: Row, grid: Grid, conversation: Conversation, ids: Sequence[int]) -> torch.Tensor:
        return self._network.language.embed(
            ids,
            self._network.adapters[row.aspect],
            row.picture.embeddings(self._network.towers[row.aspect], grid),
            conversation.image_bounds,
        )

    def _counts(self, rows: Sequence[Row]) -> list[tuple[Aspect, int]]:
        return [(aspect, len(list(group))) for aspect, group in groupby(rows, key=lambda row: row.aspect)]

    def _groups(self, rows: Sequence[Row]) -> list[tuple[int, int]]:
        return [(self._network.adapters[aspect], count) for aspect, count in self._counts(rows)]

    @contextmanager
    def _timed(self, stage: str, timings: dict[str, float]) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        timings[stage] = (time.perf_counter() - started) * 1000


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
    return device


def _aspect_score(row: Row, grid: Grid, cut_tokens: int, raw: float) -> AspectScore:
    if not math.isfinite(raw):
        raise ScoreNotFinite(f"{row.aspect}: the head returned {raw}; check the checkpoint and the dtype")
    score = min(max(raw, 0.0), 5.0)
    return AspectScore(
        score=score,
        rating=Rating.of(score),
        description=row.description,
        slices=grid.slices,
        cut_tokens=cut_tokens,
    )


def _alive(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.failure is None]


@contextmanager
def _failing_alone(row: Row) -> Iterator[None]:
    """A typed failure of one row stays that row's."""
    try:
        yield
    except M3AGIQAError as error:
        row.failure = Failure.of(error)
