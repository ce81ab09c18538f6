"""A small base from nothing: its tower learns to see as a tuned network does, then its language model to describe.

First the teacher, a backbone trained on ImageNet, is tuned to human scores. The tower then learns, from views of
images as they are and altered, the teacher's local features patch by patch, its pooled features, its ratings and
their order. Then it stays as it is, and what lies behind it learns to tell the same by its mean state over an image,
and the image's conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from m3agiqa.files import image_digest
from m3agiqa.model.tokens import ConversationTokenizer
from m3agiqa.model.writing import train_tokenizer, write_description
from m3agiqa.outputs import make_folder, write
from m3agiqa.train.base.material import Material, Numbers, Progress
from m3agiqa.train.base.settings import Pretraining
from m3agiqa.train.base.teacher import Teacher, tune
from m3agiqa.train.base.trainer import Trainer
from m3agiqa.train.data.conversations import ConversationRecord
from m3agiqa.train.data.dataset import DataSet
from m3agiqa.train.run import Run, digest


def pretrain(
    data: DataSet,
    conversations: Sequence[ConversationRecord],
    settings: Pretraining,
    run: Path,
    device: torch.device,
    progress: Progress,
) -> Path:
    """Train a base into the folder `run`, continuing what a killed run left there; returns the base's folder.

    Raises:
        DataError: the data set is wrong.
        OutputError: the run's folder does not allow it.
    """
    folder = Run(run)
    with folder.alone():
        return _pretrain(data, conversations, settings, folder, device, progress)


def _pretrain(
    data: DataSet,
    conversations: Sequence[ConversationRecord],
    settings: Pretraining,
    folder: Run,
    device: torch.device,
    progress: Progress,
) -> Path:
    texts = [turn.content for item in conversations for turn in item.conversations]
    identity = {
        "data": _learned_from(data, conversations, settings),
        "conversations": digest(*(part for item in conversations for part in (item.image, item.model_dump_json()))),
        **settings.model_dump(mode="json"),
    }
    state = folder.resume(identity)
    base = folder.path / "base"
    weights = base / "model.safetensors"
    steps = settings.steps + settings.text_steps
    history: list[Numbers] = [] if state is None else state["history"]
    done = int(history[-1]["step"]) if history else 0
    if done >= steps and weights.exists():
        progress.note(f"{folder.path} holds this run, finished: nothing is left to do")
        return base
    shape = settings.shape
    material = Material(data, conversations, settings, device, progress)
    folder.begin(identity)
    make_folder(base)
    write_description(base, shape, train_tokenizer(texts, shape.vocab))
    tokenizer = ConversationTokenizer.from_file(base / "tokenizer.json", shape.queries)
    # A folder of its own, so that the teacher of an interrupted run stays what it is.
    backbone = tune(material, settings, Run(folder.path / "teacher"), identity, device, progress)
    trainer = Trainer(material, Teacher(backbone, material, settings, device), tokenizer, settings, device)
    if state is not None:
        try:
            trainer.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise folder.damaged() from error
    sums: dict[str, torch.Tensor] = {}
    for step in progress.steps(range(done, steps)):
        for name, loss in trainer.step(step).items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + loss
        if (step + 1) % settings.evaluate_every and step + 1 not in (settings.steps, steps):
            continue
        since, done = step + 1 - done, step + 1
        means = {name: float(loss) / since for name, loss in sums.items()}
        history.append({"step": done, **means, **trainer.validate(step)})
        sums.clear()
        folder.keep({**trainer.state_dict(), "history": history})
        folder.keep_metrics(history)
        progress.report(history[-1])
    write(weights, save(trainer.base()))
    return base


def _learned_from(data: DataSet, conversations: Sequence[ConversationRecord], settings: Pretraining) -> str:
    """A digest of the images that are talked about, their prompts and their scores."""
    named = {item.image for item in conversations}
    parts = [
        f"{entry.name} {entry.prompt} {image_digest(data.image(entry.name))} "
        + repr([entry.label(label) for label in settings.labels])
        for entry in data.entries
        if entry.name in named
    ]
    return digest(*parts)
