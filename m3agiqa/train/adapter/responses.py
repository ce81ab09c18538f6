"""An adapted model's own answers in the conversations of a data set: a description and a rating word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from m3agiqa.contract import Aspect, Failure
from m3agiqa.engine.rows import Reading, Row
from m3agiqa.engine.session import Session
from m3agiqa.errors import DataError, M3AGIQAError, OutputError
from m3agiqa.files import image_digest, read_job
from m3agiqa.jobs import Job
from m3agiqa.progress import Progress, tracked
from m3agiqa.train.data.conversations import ConversationRecord, read_conversations, write_conversations
from m3agiqa.train.data.dataset import DataSet
from m3agiqa.train.head.states import Headless
from m3agiqa.train.run import digest


class Answerer(Headless):
    """Writes descriptions as scoring does, then goes on with the rating question instead of the head."""

    def answer(self, jobs: Sequence[Job]) -> list[tuple[str, str] | Failure]:
        """Description and rating word of each image, in order; each job for the one aspect of the profile."""
        [aspect] = self.aspects
        self._answers: dict[int, tuple[str, str]] = {}
        outcomes = self.run(jobs)
        return [
            self._answers[number] if number in self._answers else scores.failures[aspect]
            for number, scores in enumerate(outcomes)
        ]

    def _rate(self, rows: Sequence[Row], session: Session) -> None:
        tokenizer = self._network.tokenizer
        readings = []
        for row in rows:
            assert row.grid is not None
            assert row.prompt is not None
            asked = tokenizer.scoring_conversation(row.grid, row.analysis, row.description, row.profile.question)
            # The head of the assistant's turn, as it ends the first question.
            turn = row.prompt.ids[
                max(at for at, token in enumerate(row.prompt.ids) if token in tokenizer.eos_ids) + 1 :
            ]
            ids = [*asked.ids, *turn]
            readings.append(Reading(row.grid, replace(asked, ids=ids), ids, known=0))
        second = self._engine.session(self._embed(rows, readings), [self._network.adapters[row.aspect] for row in rows])
        for row, generated in zip(rows, second.generate(), strict=True):
            self._answers[row.job] = (row.description, tokenizer.decode(generated))


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
    load: Callable[[], Answerer],
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
    answerer = load() if unanswered else None
    starts = range(0, len(unanswered), task.batch_size)
    for start in tracked(starts, len(starts), progress):
        assert answerer is not None
        jobs: dict[str, Job] = {}
        for image in unanswered[start : start + task.batch_size]:
            try:
                jobs[image] = read_job(task.data.image(image), prompts[image], (task.aspect,))
            except M3AGIQAError as error:
                failed.append(f"{image}: {error}")
        for image, answer in zip(jobs, answerer.answer(list(jobs.values())), strict=True):
            if isinstance(answer, Failure):
                failed.append(f"{image}: {answer.message}")
            else:
                by = _answered(task, items[image], weights)
                added = {"response_0": answer[0], "response_1": answer[1], "answered": by}
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
