"""Asks a teacher about many images: API keys take turns, limits are obeyed, and every answer is kept as it comes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3agiqa import jsonl
from m3agiqa.contract import Aspect
from m3agiqa.errors import ConfigError, DataError, M3AGIQAError, OutputError
from m3agiqa.files import image_digest
from m3agiqa.outputs import append, write
from m3agiqa.pools import threads
from m3agiqa.train.run import digest
from m3agiqa.train.teacher.clients import KeyRefused, Refused, Teacher, TeacherBusy, TeacherError
from m3agiqa.train.teacher.questions import Template, sent_image

#: Times that a limited question is asked within one round.
MAX_TRIES = 8
#: Seconds of the first and of the longest pause, where the teacher names none; each pause doubles the one before.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0


@dataclass(frozen=True)
class Question:
    """One image to be described."""

    image: str
    path: Path
    prompt: str
    scores: dict[Aspect, float]


class Keys:
    """API keys that take turns; a limited one rests, a refused one is dropped."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._ready_at = dict.fromkeys(keys, 0.0)
        self._changed = threading.Condition()
        self._stopped = False

    def take(self) -> str:
        """Wait for the key that is ready first.

        Raises:
            ConfigError: the teacher refused every key.
            KeyRefused: the run was stopped.
        """
        with self._changed:
            while True:
                if self._stopped:
                    raise KeyRefused("stopped")
                if not self._ready_at:
                    raise ConfigError("the teacher refused every API key: check them, and what they may use")
                key = min(self._ready_at, key=self._ready_at.__getitem__)
                now = time.monotonic()
                if self._ready_at[key] <= now:
                    # Puts the key behind the others, whose turn it is now.
                    self._ready_at[key] = now
                    return key
                self._changed.wait(self._ready_at[key] - now)

    def rest(self, key: str, seconds: float) -> None:
        with self._changed:
            if key in self._ready_at:
                self._ready_at[key] = max(self._ready_at[key], time.monotonic() + seconds)

    def drop(self, key: str) -> None:
        with self._changed:
            self._ready_at.pop(key, None)
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class DescriptionFile:
    """JSON lines `{image, aspect, prompt, description, teacher, asked}`, or `{image, teacher, error, asked}` for one
    given up.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        #: Whole lines of an earlier run, until they are written again without the line that was cut off.
        self._whole: str | None = None

    def resume(
        self, questions: Sequence[Question], teacher: str, template: Template, *, retry_failed: bool
    ) -> set[str]:
        """Read what an earlier run wrote, but for a line that was cut off. Returns the images that are done.

        Raises:
            DataError: the file holds something else.
            OutputError: it holds answers to other questions about these images.
        """
        if not self.path.exists():
            return set()
        whole, lines = jsonl.read_grown(self.path)
        described: dict[str, set[str]] = {}
        failed = set()
        now = {question.image: asked(question, teacher, template) for question in questions}
        for where, item in lines:
            image, aspect = item.get("image"), item.get("aspect")
            if not isinstance(image, str) or not ("error" in item or isinstance(aspect, str)):
                raise DataError(f"{where}: no description of an image; name another file")
            if item.get("asked") and item["asked"] != now.get(image, item["asked"]):
                raise OutputError(
                    f"{where}: {image} was asked about with another image, prompt, score, template or teacher; name "
                    "another file"
                )
            if "error" in item:
                failed.add(image)
            else:
                described.setdefault(image, set()).add(str(aspect))
        self._whole = whole
        done = {image for image, known in described.items() if known >= set(template.aspects)}
        return done if retry_failed else done | failed

    def append(self, items: Sequence[dict[str, Any]]) -> None:
        """Write lines in one go, so that an image's aspects stay together."""
        with self._lock:
            if self._whole is not None:
                write(self.path, self._whole)
                self._whole = None
            append(self.path, jsonl.dump(items))


def ask_all(
    questions: Sequence[Question],
    teacher: Teacher,
    template: Template,
    keys: Keys,
    file: DescriptionFile,
    *,
    concurrency: int,
    rounds: int,
    advance: Callable[[], None],
) -> int:
    """Ask every question, and those that got no usable answer again in later rounds. Returns how many were given up.

    Raises:
        ConfigError: there is no such model, or it refused every key.
    """
    given_up = 0
    left = list(questions)
    for number in range(rounds):
        unanswered = []
        with _asking(left, teacher, template, keys, file, concurrency) as failures:
            for question, failure in failures:
                if number + 1 < rounds and isinstance(failure, Refused | TeacherBusy):
                    unanswered.append(question)
                    continue
                if failure is not None:
                    given_up += 1
                    known = {"image": question.image, "teacher": teacher.name}
                    file.append([known | {"error": str(failure), "asked": asked(question, teacher.name, template)}])
                advance()
        left = unanswered
    return given_up


@contextmanager
def _asking(
    questions: Sequence[Question],
    teacher: Teacher,
    template: Template,
    keys: Keys,
    file: DescriptionFile,
    concurrency: int,
) -> Iterator[Iterator[tuple[Question, Exception | None]]]:
    """Yield each question that is done, with the error if it failed; its answer is in the file by then."""

    def ask(question: Question) -> Exception | None:
        try:
            image, mime = sent_image(question.path)
            text = template.question(question.prompt, question.scores)
            found = template.explanations(_patiently(teacher, keys, image, mime, text))
        except ConfigError:
            raise
        except (TeacherError, M3AGIQAError) as error:
            return error
        # The thread that asked writes the answer before it asks again: a kill loses no answer that was paid for.
        known = asked(question, teacher.name, template)
        file.append([_line(question, aspect, text, teacher, known) for aspect, text in found.items()])
        return None

    with threads(concurrency) as pool:
        try:
            futures: dict[Future[Exception | None], Question] = {
                pool.submit(ask, question): question for question in questions
            }
            yield ((futures[future], future.result()) for future in as_completed(futures))
        except BaseException:
            keys.stop()
            raise


def _patiently(teacher: Teacher, keys: Keys, image: bytes, mime: str, text: str) -> str:
    """Ask with the key whose turn it is, again while the teacher is limited, up to MAX_TRIES times."""
    limited = TeacherBusy("busy")
    tries = 0
    while tries < MAX_TRIES:
        key = keys.take()
        try:
            return teacher.ask(key, image, mime, text)
        except TeacherBusy as error:
            limited = error
            pause = min(FIRST_PAUSE_S * 2**tries, LONGEST_PAUSE_S) * random.uniform(0.5, 1)
            keys.rest(key, pause if error.retry_after_s is None else error.retry_after_s)
            tries += 1
        except KeyRefused:
            keys.drop(key)
    raise limited


def asked(question: Question, teacher: str, template: Template) -> str:
    """A digest of all that an answer depends on: image, prompt, scores, template and teacher."""
    text = template.question(question.prompt, question.scores)
    return digest(str(image_digest(question.path)), text, teacher)[:16]


def _line(question: Question, aspect: Aspect, text: str, teacher: Teacher, asked: str) -> dict[str, Any]:
    return {
        "image": question.image,
        "aspect": aspect.value,
        "prompt": question.prompt,
        "description": text,
        "teacher": teacher.name,
        "asked": asked,
    }
