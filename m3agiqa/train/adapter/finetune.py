"""Fine-tuning by peft and transformers' trainer: LoRA on the language model, and modules that are trained whole."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from m3agiqa.errors import CheckpointError, ConfigError, DataError
from m3agiqa.files import image_digest
from m3agiqa.model.slicing import Slicing
from m3agiqa.model.tokens import ConversationTokenizer
from m3agiqa.outputs import told_full_disk
from m3agiqa.pools import threads
from m3agiqa.train.configuration import Configuration
from m3agiqa.train.data.conversations import ConversationRecord
from m3agiqa.train.data.dataset import DataSet
from m3agiqa.train.data.lessons import tokens
from m3agiqa.train.run import Run, digest

#: Threads that read images.
_THREADS = 8


class FineTuning(Configuration):
    """A file of `cfg/train/` for fine-tuning; the defaults are the published setting."""

    #: Profile whose base is adapted; `--model` overrides it.
    model: str
    rank: int = Field(default=64, ge=1)
    #: Modules that are trained and saved whole; without vpm and resampler the vision towers stay as they are.
    saved: tuple[Literal["embed_tokens", "resampler", "vpm"], ...] = ("embed_tokens", "resampler", "vpm")
    #: Tokens after which a conversation is cut.
    context: int = Field(default=512, ge=16)
    #: Slices of an image, at most.
    max_slices: int = Field(default=9, ge=1, le=9)
    steps: int = Field(default=22_000, ge=1)
    #: Conversations of one step; they run one after the other.
    batch_size: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-6, gt=0)
    #: Share of the steps over which the learning rate rises; then it falls along a cosine.
    warmup: float = Field(default=0.01, ge=0, lt=1)
    weight_decay: float = Field(default=0.1, ge=0)
    adam_beta2: float = Field(default=0.95, gt=0, lt=1)
    gradient_checkpointing: bool = True
    #: Steps between evaluations, each of which keeps a checkpoint.
    evaluate_every: int = Field(default=400, ge=1)
    seed: int = Field(default=42, ge=0, lt=2**32)


@dataclass(frozen=True)
class ConversationDataset(Dataset[dict[str, Any]]):
    """Conversations as the model learns them: tokens, with the assistant's turns as labels, and image slices."""

    data: DataSet
    conversations: Sequence[ConversationRecord]
    tokenizer: ConversationTokenizer
    slicing: Slicing
    settings: FineTuning

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.conversations[index]
        rgb = self.data.open(item.image).rgb
        grid = self.slicing.grid(rgb.width, rgb.height, self.settings.max_slices)
        learned = tokens(self.tokenizer, item, grid)
        if learned.image_bounds[-1][1] >= self.settings.context:
            raise ConfigError(f"{item.image}: its slices alone fill the context; lower max_slices or raise context")
        return {
            "input_ids": torch.tensor([learned.ids[: self.settings.context]]),
            "labels": torch.tensor([learned.labels[: self.settings.context]]),
            "slices": self.slicing.cut(rgb, grid),
            "bounds": learned.image_bounds,
        }


def identity(lessons: ConversationDataset, validation: ConversationDataset | None, weights: str) -> dict[str, Any]:
    """What identifies a run: its conversations and their images, the base's weights, and the configuration."""

    def learned(lesson: ConversationDataset) -> str:
        with threads(_THREADS) as pool:
            images = pool.map(lambda item: image_digest(lesson.data.image(item.image)), lesson.conversations)
            known = dict(zip(lesson.conversations, images, strict=True))
        if unreadable := [item.image for item, image in known.items() if image is None]:
            raise DataError(
                f"{unreadable[0]} cannot be read, nor {len(unreadable) - 1} others; `m3agiqa data check` lists them"
            )
        return digest(*(f"{item.model_dump_json()} {image}" for item, image in known.items()))

    return {
        "data": learned(lessons),
        "validation": None if validation is None else learned(validation),
        "weights": weights,
        **lessons.settings.model_dump(mode="json", exclude={"model"}),
    }


@dataclass(frozen=True)
class AdapterRun:
    """The folder of a run: checkpoints of transformers' trainer, and in the end an adapter."""

    run: Run

    @property
    def adapter(self) -> Path:
        return self.run.path / "adapter"

    def checkpoint(self) -> Path | None:
        """The last checkpoint; None if there is none.

        Raises:
            CheckpointError: it is damaged; says what to delete.
        """
        last = get_last_checkpoint(str(self.run.path)) if self.run.path.is_dir() else None
        if last is not None and not _is_whole(Path(last)):
            raise CheckpointError(f"{last} is damaged: delete that folder to go on from what was kept before it")
        return None if last is None else Path(last)

    def drop_torn(self) -> None:
        """Remove checkpoints that are not whole."""
        for path in self.run.path.glob("checkpoint-*"):
            if not _is_whole(path):
                shutil.rmtree(path, ignore_errors=True)

    def is_finished(self, steps: int) -> bool:
        last = self.checkpoint()
        return last is not None and int(last.name.rpartition("-")[2]) >= steps and self.adapter.is_dir()

    def check(self, identity: dict[str, Any]) -> None:
        """Raises: OutputError: the folder holds another run, or one that does not say what it was started with."""
        has_begun = self.adapter.is_dir() or any(self.run.path.glob("checkpoint-*"))
        self.run.check(identity, has_begun=has_begun, changeable=("steps",))


def finetune(
    model: PeftModel,
    lessons: ConversationDataset,
    validation: ConversationDataset | None,
    settings: FineTuning,
    run: AdapterRun,
    device: torch.device,
) -> None:
    """Train into the folder of `run`, from its last checkpoint on.

    Raises:
        DataError: an image cannot be read.
        ConfigError: an image's slices fill the context.
        OutputError: the disk has no room.
    """
    trainer = Trainer(
        model=model,
        args=_arguments(settings, run.run.path, device, evaluates=validation is not None),
        train_dataset=lessons,
        eval_dataset=validation,
        data_collator=lambda batch: batch[0],
    )
    last = run.checkpoint()
    # Renamed to `adapter` when it is whole.
    partial = run.run.path / "adapter.partial"
    try:
        with told_full_disk(run.run.path):
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
            model.half()
            shutil.rmtree(partial, ignore_errors=True)
            model.save_pretrained(str(partial), save_embedding_layers=False)
            shutil.rmtree(run.adapter, ignore_errors=True)
            partial.rename(run.adapter)
    except BaseException:
        run.drop_torn()
        raise


def _arguments(settings: FineTuning, folder: Path, device: torch.device, *, evaluates: bool) -> TrainingArguments:
    on_gpu = device.type == "cuda"
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(settings.warmup * settings.steps),
        weight_decay=settings.weight_decay,
        adam_beta2=settings.adam_beta2,
        # The base's weights are float16: bfloat16 would round the towers.
        fp16=on_gpu,
        use_cpu=not on_gpu,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=settings.evaluate_every,
        save_steps=settings.evaluate_every,
        save_total_limit=2,
        logging_steps=min(10, settings.evaluate_every),
        seed=settings.seed,
        label_names=["labels"],
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to="none",
    )


def _is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there and complete."""
    files = [path for path in checkpoint.iterdir() if path.is_file()]
    if not {"trainer_state.json", "optimizer.pt"} <= {path.name for path in files}:
        return False
    try:
        for path in files:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            elif path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):
                return False
    except (OSError, ValueError, SafetensorError):
        return False
    return True
