"""All parts of a profile, loaded: every weight once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from m3agiqa.contract import Aspect
from m3agiqa.errors import CheckpointError
from m3agiqa.model.adapters import AdaptedEmbedding, AdaptedLinear, Adapter, Routing, read_adapter
from m3agiqa.model.checkpoints import SharedTensors, TensorFiles, assign, expect, read_head, read_json
from m3agiqa.model.head import Head
from m3agiqa.model.language import Language
from m3agiqa.model.tokens import ConversationTokenizer
from m3agiqa.model.vision import Tower

_EMBEDDING = "llm.model.embed_tokens.weight"
_LM_HEAD = "llm.lm_head.weight"

#: Called with what is being loaded.
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Network:
    """What scoring runs. Aspects whose towers are equal share one."""

    tokenizer: ConversationTokenizer
    language: Language
    towers: Mapping[Aspect, Tower]
    heads: Mapping[Aspect, Head]
    #: Number of an aspect's adapter in the language model's routing.
    adapters: Mapping[Aspect, int]


def load_network(
    base: Path,
    adapters: Mapping[Aspect, Path],
    heads: Mapping[Aspect, Path],
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress = lambda part: None,
) -> Network:
    """Load the base in `base`, an adapter folder and a head's file per aspect.

    Base tensors that every adapter brings itself are never loaded; those equal among adapters are kept once.

    Raises:
        CheckpointError: anything missing, broken, or not fitting the rest.
    """
    config = read_json(base / "config.json")
    files = TensorFiles.in_folder(base, "model")
    routing = Routing()
    language, tower = _on_meta(config, routing)
    expect(files.keys(), _base_keys(language, tower), str(base))
    linears = [name for name, module in language.named_modules() if isinstance(module, nn.Linear)]
    loader = _Loader(files, device, dtype)
    progress("adapters")
    read = [read_adapter(adapters[aspect], aspect, linears, files.keys()) for aspect in adapters]
    progress("language model")
    _fill_language(language, loader, read)
    language.materialise(device)
    towers: dict[Aspect, Tower] = {}
    fused: dict[Aspect, Head] = {}
    for aspect, adapter in zip(adapters, read, strict=True):
        progress(f"{aspect}: vision tower")
        towers[aspect] = loader.tower(adapter, config)
        progress(f"{aspect}: head")
        fused[aspect] = _head(heads[aspect], language.llm.lm_head.weight)
    return Network(
        tokenizer=ConversationTokenizer.from_file(base / "tokenizer.json", config["query_num"]),
        language=language,
        towers=towers,
        heads=fused,
        adapters={aspect: number for number, aspect in enumerate(adapters)},
    )


def _on_meta(config: dict[str, Any], routing: Routing) -> tuple[Language, Tower]:
    try:
        with torch.device("meta"):
            language = Language(config, routing)
            tower = Tower(config["vision_config"], config["hidden_size"], config["query_num"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json is not MiniCPM-Llama3-V-2.5's: {type(error).__name__}: {error}") from error
    return language, tower


def _base_keys(language: Language, tower: Tower) -> Iterator[str]:
    yield from language.state_dict()
    yield from tower.state_dict()


class _Loader:
    def __init__(self, files: TensorFiles, device: torch.device, dtype: torch.dtype) -> None:
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

    def tower(self, adapter: Adapter, config: dict[str, Any]) -> Tower:
        with torch.device("meta"):
            tower = Tower(config["vision_config"], config["hidden_size"], config["query_num"])
        tensors = {key: self.tensor(key, adapter) for key in tower.state_dict()}
        identity = tuple(id(tensor) for tensor in tensors.values())
        if identity not in self._towers:
            assign(tower, tensors, f"{adapter.name}: vision tower")
            self._towers[identity] = tower
        return self._towers[identity]


def _fill_language(language: Language, loader: _Loader, adapters: list[Adapter]) -> None:
    """Give the language model its tensors, then put the adapters' layers in."""
    state = {
        key: loader.files.read(key, loader.device, loader.dtype) for key in language.state_dict() if key != _EMBEDDING
    }
    tables = [loader.tensor(_EMBEDDING, adapter) for adapter in adapters]
    assign(language, {**state, _EMBEDDING: tables[0]}, "language model")
    language.llm.model.embed_tokens = AdaptedEmbedding(tables, language.routing)
    for name in sorted(set().union(*(adapter.targets for adapter in adapters))):
        layer = AdaptedLinear(cast("nn.Linear", language.get_submodule(name)), language.routing)
        for number, adapter in enumerate(adapters):
            if name in adapter.targets:
                lora_a, lora_b = (
                    adapter.read(f"{name}.lora_{side}.weight", loader.device, torch.float32) for side in "AB"
                )
                layer.add(number, lora_a, lora_b, adapter.scaling(name))
        parent, _, child = name.rpartition(".")
        setattr(language.get_submodule(parent), child, layer)


def _head(path: Path, lm_head: torch.Tensor) -> Head:
    try:
        return Head(read_head(path), lm_head)
    except (KeyError, RuntimeError, IndexError) as error:
        raise CheckpointError(f"{path} does not fit the base: {error}") from error
