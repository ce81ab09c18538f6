"""An adapted model's own answers in the conversations of a data set: a description and a rating word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from m3agiqa.contract import Aspect, Failure
from m3agiqa.engine.rows import alive
from m3agiqa.engine.scoring import Engine
from m3agiqa.errors import DataError, M3AGIQAError, OutputError
from m3agiqa.files import image_digest, read_job
from m3agiqa.jobs import Job
from m3agiqa.progress import Progress, tracked
from m3agiqa.train.data.conversations import ConversationRecord, read_conversations, write_conversations
from m3agiqa.train.data.dataset import DataSet
from m3agiqa.train.run import digest


@torch.inference_mode()
def answer(engine: Engine, jobs: Sequence[Job]) -> list[tuple[str, str] | Failure]:
    """Description and rating word of each image, in order; each job is for the one aspect of the engine.

    The model describes as in scoring, and then answers the rating question itself, where a head would score.
    """
    tokenizer = engine.network.tokenizer
    rows = engine.encode(jobs)
    engine.describe(rows, engine.prefill(rows))
    for row in alive(rows):
        row.prompt = tokenizer.rating_prompt(row.prompt.grid, row.analysis, row.description, row.profile.question)
    words = (tokenizer.decode(ids) for ids in engine.prefill(rows).generate())
    return [(row.description, next(words)) if row.failure is None else row.failure for row in rows]


@dataclass(frozen=True)
class ResponseTask:
    """Which conversations a model answers, about which aspect, and into which file."""

    data: DataSet
    aspect: Aspect
    conversations: Path
    output: Path
    #: Images that the model takes together.
    batch_size: int = 8


def respond(
    task: ResponseTask,
    weights: str,
    load: Callable[[], Engine],
    progress: Progress,
) -> tuple[int, list[str]]:
    """Write the conversations with the model's `response_0` and `response_1`; an earlier run's answers are kept.

    Args:
        task: the conversations, and where the answers go.
        weights: digest of the model.
        load: loads the model; called only if an answer is missing.
        progress: told the share of the batches that were answered.

    Returns:
        How many conversations are answered, and a sentence for each image that failed.

    Raises:
        DataError: a conversation's image is in no table.
        OutputError: `output` holds other conversations, or another model's answers.
    """
    items = {item.image: item for item in read_conversations(task.conversations)}
    prompts = {entry.name: entry.prompt for entry in task.data.entries}
    if unknown := [image for image in items if image not in prompts]:
        raise DataError(f"{unknown[0]} of {task.conversations} is in no table of {task.data.folder}")
    items |= _left(task, items, weights)
    failed: list[str] = []
    unanswered = [image for image, item in items.items() if item.response_1 is None]
    engine = load() if unanswered else None
    starts = range(0, len(unanswered), task.batch_size)
    for start in tracked(starts, len(starts), progress):
        assert engine is not None
        jobs: dict[str, Job] = {}
        for image in unanswered[start : start + task.batch_size]:
            try:
                jobs[image] = read_job(task.data.image(image), prompts[image], (task.aspect,))
            except M3AGIQAError as error:
                failed.append(f"{image}: {error}")
        for image, found in zip(jobs, answer(engine, list(jobs.values())), strict=True):
            if isinstance(found, Failure):
                failed.append(f"{image}: {found.message}")
            else:
                by = _answered(task, items[image], weights)
                added = {"response_0": found[0], "response_1": found[1], "answered": by}
                items[image] = items[image].model_copy(update=added)
        write_conversations(task.output, list(items.values()))
    return sum(item.response_1 is not None for item in items.values()), failed


def _left(task: ResponseTask, items: Mapping[str, ConversationRecord], weights: str) -> dict[str, ConversationRecord]:
    """The conversations that an earlier run answered, by image."""
    left: dict[str, ConversationRecord] = {}
    if not task.output.exists() or not task.output.stat().st_size:
        return left
    for item in read_conversations(task.output):
        if item.image not in items:
            raise OutputError(f"{task.output} holds other conversations: {item.image} is not among them")
        if item.conversations != items[item.image].conversations:
            raise OutputError(f"{task.output} holds another conversation about {item.image}; name another file")
        if item.answered not in (None, _answered(task, item, weights)):
            raise OutputError(
                f"{task.output} holds an answer of other weights, or about another image, for "
                f"{item.image}; name another file"
            )
        left[item.image] = item
    return left


def _answered(task: ResponseTask, item: ConversationRecord, weights: str) -> str:
    return digest(weights, str(image_digest(task.data.image(item.image))))[:16]
