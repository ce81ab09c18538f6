"""`m3agiqa describe --teacher`: a large model explains human scores."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from m3agiqa.cli import bars
from m3agiqa.cli.arguments import scale
from m3agiqa.console import DONE, FAILED, number, whole
from m3agiqa.contract import Aspect
from m3agiqa.errors import ConfigError, DataError, UsageError

if TYPE_CHECKING:
    from m3agiqa.train.data.dataset import DataSet
    from m3agiqa.train.teacher.asking import Question
    from m3agiqa.train.teacher.clients import Teacher
    from m3agiqa.train.teacher.questions import Template

#: Environment variables with a provider's API keys, separated by commas.
KEY_VARIABLES = {"gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"), "openai": ("OPENAI_API_KEY",)}

#: Assumed by the estimate of the cost: characters of a token, tokens of an explanation, tokens of an image's tile, and
#: pixels of its side.
_CHARS_PER_TOKEN, _ANSWER_TOKENS, _TILE_TOKENS, _TILE = 4, 90, 258, 768


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--teacher-model", metavar="NAME", help="the provider's name of the model")
    parser.add_argument("--base-url", metavar="URL", help="of another server with the same protocol")
    parser.add_argument("--template", default="teacher-two-aspects", metavar="NAME", help="under cfg/train, or a path")
    parser.add_argument("--label-scale", type=scale, default=1.0, metavar="X", help="multiplies scores")
    parser.add_argument(
        "--concurrency", type=whole(most=256), default=4, metavar="N", help="questions at a time (default 4)"
    )
    parser.add_argument(
        "--rounds",
        type=whole(most=1000),
        default=3,
        metavar="N",
        help="rounds: refusals and broken JSON are asked again in the next (default 3)",
    )
    parser.add_argument("--retry-failed", action="store_true", help="ask again about images given up before")
    parser.add_argument("--limit", type=whole(), metavar="N", help="only the first N images")
    parser.add_argument("--price-in", type=number(), metavar="X", help="per million tokens read, for the estimate")
    parser.add_argument("--price-out", type=number(), metavar="X", help="per million tokens written")
    parser.add_argument("--yes", action="store_true", help="start without asking")


def run(args: argparse.Namespace) -> int:
    from m3agiqa.cli import datasets
    from m3agiqa.outputs import alone, check_writable
    from m3agiqa.train.data.dataset import TABLE
    from m3agiqa.train.teacher.asking import DescriptionFile, Keys, ask_all
    from m3agiqa.train.teacher.questions import Template

    if args.teacher_model is None:
        raise UsageError("--teacher needs --teacher-model")
    template = Template.load(args.template)
    data = datasets.load(args.folder, args.images)
    check_writable(args.output, args.folder / TABLE, kept=True)
    teacher = _teacher(args)
    questions = _questions(data, template, args.label_scale)[: args.limit]
    file = DescriptionFile(args.output)
    with alone(args.output):
        done = file.resume(questions, teacher.name, template, retry_failed=args.retry_failed)
        left = [question for question in questions if question.image not in done]
        keys = Keys(_keys(args.teacher))
        console = Console(stderr=True)
        console.print(f"{len(questions) - len(left)} of {len(questions)} images are done", highlight=False)
        if left and not _agreed(args, _estimate(args, template, left)):
            return FAILED
        with bars.counting(console) as bar:
            task = bar.add_task("describing", total=len(questions), completed=len(questions) - len(left))
            given_up = ask_all(
                left,
                teacher,
                template,
                keys,
                file,
                concurrency=args.concurrency,
                rounds=args.rounds,
                advance=lambda: bar.advance(task),
            )
    print(f"{args.output}: {len(questions) - given_up} of {len(questions)} images done, {given_up} given up")
    return FAILED if left and given_up == len(left) else DONE


def _questions(data: DataSet, template: Template, scale: float) -> list[Question]:
    from m3agiqa.train.teacher.asking import Question

    columns: dict[Aspect, str] = {aspect: data.label_column(aspect) for aspect in template.aspects}
    low, high = template.scale
    questions: dict[str, Question] = {}
    for entry in data.entries:
        scores = {aspect: entry.label(column, scale) for aspect, column in columns.items()}
        known = {aspect: score for aspect, score in scores.items() if score is not None}
        if outside := [score for score in known.values() if not low <= score <= high]:
            raise DataError(f"{entry.name}: {outside[0]:g} lies outside {low:g}..{high:g}; see --label-scale")
        if len(known) == len(columns):
            questions[entry.name] = Question(entry.name, data.image(entry.name), entry.prompt, known)
    return list(questions.values())


def _keys(teacher: str) -> list[str]:
    variables = KEY_VARIABLES[teacher]
    found = [key.strip() for variable in variables for key in os.environ.get(variable, "").split(",")]
    keys = list(dict.fromkeys(key for key in found if key))
    if not keys:
        raise ConfigError(f"set {' or '.join(variables)}; several keys, separated by commas, take turns")
    return keys


def _teacher(args: argparse.Namespace) -> Teacher:
    from m3agiqa.train.teacher.clients import Gemini, OpenAICompatible

    kind = Gemini if args.teacher == "gemini" else OpenAICompatible
    return kind(args.teacher_model, args.base_url)


def _estimate(args: argparse.Namespace, template: Template, questions: Sequence[Question]) -> str:
    """A sentence with the rough cost of asking; each provider counts images in its own way."""
    from PIL import Image

    tokens_in = 0
    for question in questions:
        text = template.question(question.prompt, question.scores)
        tokens_in += len(text) // _CHARS_PER_TOKEN
        try:
            with Image.open(question.path) as image:
                tokens_in += _TILE_TOKENS * -(-image.width // _TILE) * -(-image.height // _TILE)
        except (OSError, Image.DecompressionBombError):
            continue
    tokens_out = len(questions) * len(template.aspects) * _ANSWER_TOKENS
    cost = "give --price-in and --price-out for an amount"
    if args.price_in is not None and args.price_out is not None:
        cost = f"about {(tokens_in * args.price_in + tokens_out * args.price_out) / 1e6:.2f} in the prices' currency"
    return (
        f"{len(questions)} images to ask {args.teacher_model} about: roughly {tokens_in} tokens in and {tokens_out} "
        f"out, {cost}"
    )


def _agreed(args: argparse.Namespace, estimate: str) -> bool:
    print(estimate, file=sys.stderr)
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to agree to the cost: add --yes")
    print("start? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
