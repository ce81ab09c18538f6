"""`m3agiqa doctor`: shows what is installed, downloaded and reachable, and what to do next."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from m3agiqa.console import DONE, FAILED
from m3agiqa.errors import M3AGIQAError

HELP = "Say what is installed, downloaded and reachable, and what to do next. Exit 0 if the default model can score."

#: The packages of each extra; it is installed if all of them are.
EXTRAS = {
    "score": ("torch", "transformers", "tokenizers", "safetensors", "peft", "huggingface_hub", "pillow", "pyyaml"),
    "deliver": ("celery", "kombu", "requests", "standardwebhooks", "boto3", "pydantic-settings"),
    "monitor": ("flower",),
    "evaluate": ("scipy", "matplotlib"),
    "train": ("xlstm", "google-genai", "openai"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--redis-url", metavar="URL", help="default: M3AGIQA_REDIS_URL, or redis://localhost:6379/0")


def run(args: argparse.Namespace) -> int:
    todo: list[str] = []
    table = Table("what", "state", title="m3agiqa doctor", title_justify="left")
    table.add_row("python", platform.python_version())
    table.add_row("m3agiqa", _version("m3agiqa") or "not installed, run from its source")
    missing = _add_packages(table, todo)
    can_score = "score" not in missing
    if can_score:
        device = _device()
        table.add_row("device", device)
        can_score = _add_models(table, todo, has_gpu=device.startswith("cuda"))
    _add_redis(table, todo, args.redis_url)
    console = Console()
    console.print(table)
    for step in todo:
        console.print(Text(f"next: {step}"), soft_wrap=True)
    console.print(Text("ready to score" if can_score else "not ready to score", style="green" if can_score else "red"))
    return DONE if can_score else FAILED


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _add_packages(table: Table, todo: list[str]) -> set[str]:
    missing = set()
    for extra, packages in EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        table.add_row(
            f"extra {extra}", ", ".join(f"{package} {known or 'MISSING'}" for package, known in versions.items())
        )
        if None in versions.values():
            missing.add(extra)
            if extra in ("score", "deliver"):
                use = "to score images" if extra == "score" else "to run the worker"
                todo.append(f"pip install 'm3agiqa[{extra}]'  # {use}")
    return missing


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"cpu, {os.cpu_count()} cores"
    properties = torch.cuda.get_device_properties(0)
    return f"cuda: {properties.name}, {properties.total_memory / 2**30:.0f} GiB, {torch.cuda.device_count()} in all"


def _add_models(table: Table, todo: list[str], *, has_gpu: bool) -> bool:
    """Add a row for each profile. Returns whether the default one can score."""
    from m3agiqa import config, hub
    from m3agiqa.profile import ModelProfile

    ready = set()
    for name in config.names("models"):
        try:
            resolved = hub.resolve(ModelProfile.load(name), offline=True)
            size = sum(part.size_bytes for part in resolved.parts)
            table.add_row(f"model {name}", f"on this disk, {decimal(size)}")
            ready.add(name)
        except M3AGIQAError as error:
            table.add_row(f"model {name}", Text(str(error)))
    if "published" not in ready:
        todo.append("m3agiqa download  # the published checkpoints" + ("" if has_gpu else ", which want a GPU"))
    default = "published" if has_gpu and "published" in ready else "mini"
    table.add_row("default model", default)
    return default in ready


def _add_redis(table: Table, todo: list[str], url: str | None) -> None:
    # Not imported at the top: scoring works without the queue.
    from m3agiqa.queue import server
    from m3agiqa.queue.address import Address

    try:
        address = Address.from_environment() if url is None else Address.parse(url).within_environment()
        found = server.look(address.url)
    except M3AGIQAError as error:
        table.add_row("redis", Text(str(error)))
        todo.append("start Redis or give its --redis-url  # for the queue; `score` and `batch` need none")
        return
    table.add_row("redis", Text(f"{address.endpoint} answers: {found.name}"))
    for trouble in found.warnings if found.unfit is None else (found.unfit,):
        table.add_row("", Text(trouble, style="yellow" if found.unfit is None else "red"))
    if found.unfit is not None:
        todo.append("give the --redis-url of a Redis that can hold the queue  # `score` and `batch` need none")
