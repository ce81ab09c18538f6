"""Chooses a device, and loads all parts of a profile onto it, every weight once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from m3agiqa.contract import Aspect
from m3agiqa.engine.llama import Llama
from m3agiqa.errors import CheckpointError, ConfigError, M3AGIQAError
from m3agiqa.model.adapters import Adapter, read_adapter
from m3agiqa.model.checkpoints import SharedTensors, TensorFiles, Tensors, Watched, assign, expect, read_head, read_json
from m3agiqa.model.head import Head
from m3agiqa.model.language import EMBEDDING, LlamaShape
from m3agiqa.model.slicing import Slicing
from m3agiqa.model.tokens import ConversationTokenizer
from m3agiqa.model.vision import Tower
from m3agiqa.outputs import make_folder
from m3agiqa.progress import Progress, unseen


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
    """Give Triton a folder of this process for compiled kernels, if the home folder is missing or cannot be written."""
    if "TRITON_CACHE_DIR" in os.environ:
        return
    try:
        make_folder(Path.home() / ".triton")
    except (RuntimeError, M3AGIQAError):
        os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(prefix="m3agiqa-triton-")


@dataclass(frozen=True)
class Network:
    """The parts of a model that score. Aspects whose towers are equal share one."""

    slicing: Slicing
    tokenizer: ConversationTokenizer
    language: Llama
    towers: Mapping[Aspect, Tower]
    #: Empty for a network that does not rate, as in training a head.
    heads: Mapping[Aspect, Head]
    #: Number of each aspect's adapter in the language model.
    adapters: Mapping[Aspect, int]


def load_network(
    base: Path,
    adapters: Mapping[Aspect, Path],
    heads: Mapping[Aspect, Path] | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    float8: bool = False,
    progress: Progress = unseen,
) -> Network:
    """Load the base in `base`, an adapter's folder and a head's file per aspect; without heads if they are None.

    Base tensors that every adapter brings itself are never loaded; those equal among adapters are kept once. With
    `float8`, the language model's layers are rounded as they are read.

    Raises:
        CheckpointError: a part is missing, is broken, or does not fit the rest.
    """
    config = read_json(base / "config.json")
    files = TensorFiles.in_folder(base, "model")
    shape, tower = _architecture(config)
    expect(files.names(), [*shape.tensors(), *tower.state_dict()], str(base))
    tokenizer = ConversationTokenizer.from_file(base / "tokenizer.json", config["query_num"])
    read = {aspect: read_adapter(adapters[aspect], aspect, shape.linears(), files.names()) for aspect in adapters}

    def make_heads(lm_head: torch.Tensor) -> dict[Aspect, Head]:
        return {} if heads is None else {aspect: _load_head(heads[aspect], lm_head) for aspect in adapters}

    return assemble(
        config, files, read, make_heads, tokenizer, device=device, dtype=dtype, float8=float8, progress=progress
    )


def assemble(
    config: dict[str, Any],
    files: Tensors,
    adapters: Mapping[Aspect, Adapter],
    make_heads: Callable[[torch.Tensor], dict[Aspect, Head]],
    tokenizer: ConversationTokenizer,
    *,
    device: torch.device,
    dtype: torch.dtype,
    float8: bool = False,
    progress: Progress = unseen,
) -> Network:
    """Build a network from its parts; `make_heads` makes the heads from the language model's output layer."""
    meter = _Meter(files, adapters.values(), progress)
    files = meter.watch(files)
    adapters = {aspect: replace(adapter, files=meter.watch(adapter.files)) for aspect, adapter in adapters.items()}
    loader = _Loader(files, device, dtype)
    tables = [loader.tensor(EMBEDDING, adapter) for adapter in adapters.values()]
    if device.type == "cuda":
        tables = _in_host_memory(tables)
        loader.forget(EMBEDDING)
    read = partial(files.read, device=device, dtype=dtype)
    language = Llama.load(LlamaShape.from_config(config), read, tables, list(adapters.values()), float8=float8)
    towers = {aspect: loader.tower(adapter, config) for aspect, adapter in adapters.items()}
    heads = make_heads(language.lm_head)
    progress(1.0)
    return Network(
        slicing=Slicing.from_config(config),
        tokenizer=tokenizer,
        language=language,
        towers=towers,
        heads=heads,
        adapters={aspect: number for number, aspect in enumerate(adapters)},
    )


def _load_head(path: Path, lm_head: torch.Tensor) -> Head:
    try:
        return Head(read_head(path), lm_head)
    except (KeyError, RuntimeError, IndexError) as error:
        raise CheckpointError(f"{path} does not fit the base: {error}") from error


def _architecture(config: dict[str, Any]) -> tuple[LlamaShape, Tower]:
    """The language model's sizes, and a tower without weights."""
    try:
        return LlamaShape.from_config(config), _tower_on_meta(config)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json is not MiniCPM-Llama3-V-2.5's: {type(error).__name__}: {error}") from error


def _tower_on_meta(config: dict[str, Any]) -> Tower:
    with torch.device("meta"):
        return Tower(config["vision_config"], config["hidden_size"], config["query_num"])


def _in_host_memory(tables: list[torch.Tensor]) -> list[torch.Tensor]:
    """Move embedding tables off the GPU, equal ones once: a gigabyte each, of which a batch reads a few rows."""
    moved = {id(table): table.cpu().pin_memory() for table in tables}
    return [moved[id(table)] for table in tables]


class _Meter:
    """Reports the share of all weights that has been read.

    It counts each adapter's weights, and the base's except those that every adapter brings itself. It does not count
    heads, a hundredth of the rest.
    """

    def __init__(self, base: Tensors, adapters: Iterable[Adapter], progress: Progress) -> None:
        adapters = list(adapters)
        unread = frozenset.intersection(*(adapter.saved for adapter in adapters)) if adapters else frozenset()
        self._total = sum(base.count(key) for key in base.names() if key not in unread)
        self._total += sum(adapter.files.count(key) for adapter in adapters for key in adapter.files.names())
        self._read = 0
        self._progress = progress

    def watch(self, tensors: Tensors) -> Watched:
        return Watched(tensors, self._seen)

    def _seen(self, count: int) -> None:
        self._read += count
        self._progress(self._read / self._total)


class _Loader:
    def __init__(self, files: Tensors, device: torch.device, dtype: torch.dtype) -> None:
        self.files = files
        self.device = device
        self.dtype = dtype
        self._shared = SharedTensors()
        self._base: dict[str, torch.Tensor] = {}
        self._towers: dict[tuple[int, ...], Tower] = {}

    def tensor(self, key: str, adapter: Adapter) -> torch.Tensor:
        """An adapter's own version of a tensor, or the base's; equal ones are the same object."""
        if key in adapter.saved:
            return self._shared.share(key, adapter.read(key, self.device, self.dtype))
        if key not in self._base:
            self._base[key] = self._shared.share(key, self.files.read(key, self.device, self.dtype))
        return self._base[key]

    def forget(self, key: str) -> None:
        """Keep no reference to any version of a tensor."""
        self._base.pop(key, None)
        self._shared.forget(key)

    def tower(self, adapter: Adapter, config: dict[str, Any]) -> Tower:
        tower = _tower_on_meta(config)
        tensors = {key: self.tensor(key, adapter) for key in tower.state_dict()}
        identity = tuple(id(tensor) for tensor in tensors.values())
        if identity not in self._towers:
            assign(tower, tensors, f"{adapter.name}: vision tower")
            self._towers[identity] = tower
        return self._towers[identity]
