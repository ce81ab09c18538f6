"""`m3agiqa finetune`: trains an adapter for a base on a data set's conversations."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from m3agiqa.cli.arguments import add_device_argument
from m3agiqa.console import DONE, number, whole
from m3agiqa.errors import ConfigError

HELP = "Adapt a base to a data set's conversations: LoRA, and the modules saved whole. A killed run continues."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="images/, data.csv, train.json and perhaps val.json")
    parser.add_argument("--config", default="finetune", metavar="NAME", help="name under cfg/train, or a path to one")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", dest="run_folder", help="folder of this run")
    parser.add_argument("--model", metavar="PROFILE", help="whose base is adapted; overrides the configuration's")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images lie; default: DIR/images")
    parser.add_argument("--steps", type=whole(), metavar="N", help="overrides the configuration's")
    add_device_argument(parser)
    parser.add_argument(
        "--memory-limit-gib", type=number(is_open=True), metavar="X", help="take no more of the GPU's memory"
    )


def run(args: argparse.Namespace) -> int:
    import torch

    from m3agiqa import hub
    from m3agiqa.engine.loading import choose_device
    from m3agiqa.model.checkpoints import read_json
    from m3agiqa.model.slicing import Slicing
    from m3agiqa.model.tokens import ConversationTokenizer
    from m3agiqa.profile import RANDOM, ModelProfile
    from m3agiqa.train.adapter.finetune import AdapterRun, ConversationDataset, FineTuning, finetune, identity
    from m3agiqa.train.adapter.trainee import Trainee, adapted
    from m3agiqa.train.data.conversations import read_conversations
    from m3agiqa.train.data.dataset import load_data
    from m3agiqa.train.run import Run

    settings = FineTuning.load(args.config)
    changes = {"model": args.model, "steps": args.steps}
    settings = settings.model_copy(update={key: value for key, value in changes.items() if value is not None})
    profile = ModelProfile.load(settings.model)
    bare = {
        aspect: part.model_copy(update={"adapter": RANDOM, "head": RANDOM}) for aspect, part in profile.aspects.items()
    }
    resolved = hub.resolve(profile.model_copy(update={"aspects": bare}))
    base = resolved.base
    if base is None:
        raise ConfigError(f"model {profile.name} has random weights: there is nothing to adapt")
    data = load_data(args.folder, args.images)
    shape = read_json(base / "config.json")
    tokenizer = ConversationTokenizer.from_file(base / "tokenizer.json", shape["query_num"])
    slicing = Slicing.from_config(shape)
    train, val = (args.folder / f"{part}.json" for part in ("train", "val"))
    lessons = ConversationDataset(data, read_conversations(train), tokenizer, slicing, settings)
    validation = (
        ConversationDataset(data, read_conversations(val), tokenizer, slicing, settings) if val.is_file() else None
    )
    device = choose_device(args.device)
    started_with = identity(lessons, validation, resolved.revisions["base"])
    run = AdapterRun(Run(args.run_folder))
    with run.run.alone():
        run.check(started_with)
        if run.is_finished(settings.steps):
            print(f"{run.adapter}: this run is finished, nothing is left to do; more --steps would go on from it")
            return DONE
        if args.memory_limit_gib is not None and device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, args.memory_limit_gib * 2**30 / total), device)
        torch.manual_seed(settings.seed)
        trainee = Trainee.load(base, device, torch.float32 if device.type == "cpu" else torch.float16)
        if settings.gradient_checkpointing:
            # Set here, for the trainer's argument has another name in newer versions.
            trainee.recompute()
        model = adapted(trainee, settings.rank, list(settings.saved))
        started = time.perf_counter()
        run.run.begin({**started_with, "model": settings.model})
        finetune(model, lessons, validation, settings, run, device)
    seconds = time.perf_counter() - started
    print(f"{run.adapter}: {seconds:.0f} s, {seconds / settings.steps:.2f} s a step with evaluation and checkpoints")
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
    return DONE
