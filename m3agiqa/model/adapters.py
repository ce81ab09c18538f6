"""PEFT adapters: LoRA on the language model, and modules saved whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from m3agiqa.errors import CheckpointError
from m3agiqa.model.checkpoints import TensorFiles, Tensors, read_json

_PREFIX = "base_model.model."
_STEM = "adapter_model"

#: Modules an adapter may bring whole, with the prefixes of their tensors in the base.
SAVED_MODULES = {"embed_tokens": "llm.model.embed_tokens.", "vpm": "vpm.", "resampler": "resampler."}


@dataclass(frozen=True)
class Adapter:
    """One adapter's configuration and files."""

    name: str
    config: LoraConfig
    files: Tensors
    #: Tensors that the adapter brings whole, by their names in the base.
    saved: frozenset[str]
    #: Modules of the base that the adapter changes by LoRA.
    targets: frozenset[str]

    def read(self, base_key: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        return self.files.read(_PREFIX + base_key, device, dtype)

    def low_rank(self, module: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """A [r, in] and B [out, r] of a target, float32; B holds the scaling."""
        lora_a, lora_b = (self.read(f"{module}.lora_{side}.weight", device, torch.float32) for side in "AB")
        return lora_a, lora_b * self.scaling(module)

    def scaling(self, module: str) -> float:
        """Alpha / r, or alpha / sqrt(r), with the configuration's exceptions for single modules (peft's rules)."""
        rank = _exception(self.config.rank_pattern, module, self.config.r)
        alpha = _exception(self.config.alpha_pattern, module, self.config.lora_alpha)
        return alpha / math.sqrt(rank) if self.config.use_rslora else alpha / rank


def _exception(pattern: dict[str, int] | None, module: str, default: int) -> int:
    return (pattern or {}).get(get_pattern_key(list(pattern or {}), module), default)


def read_adapter(folder: Path, name: str, base_modules: Sequence[str], base_keys: Sequence[str]) -> Adapter:
    """Read an adapter's configuration and check it against its tensors and the base.

    Args:
        base_modules: names of the base's linear modules, `llm.model.layers.0.self_attn.q_proj` and so on.
        base_keys: names of the base's tensors.

    Raises:
        CheckpointError: files are missing, this kind of adapter is not supported, or tensors do not fit.
    """
    config = _read_config(folder)
    files = TensorFiles.in_folder(folder, _STEM)
    targets = frozenset(module for module in base_modules if check_target_module_exists(config, module))
    saved = frozenset(
        key
        for module in config.modules_to_save or ()
        for key in base_keys
        if key.startswith(_saved_prefix(module, folder))
    )
    wanted = {f"{_PREFIX}{key}" for key in saved} | {
        f"{_PREFIX}{module}.lora_{side}.weight" for module in targets for side in "AB"
    }
    if missing := sorted(wanted - set(files.names())):
        raise CheckpointError(f"{folder}: adapter_config.json asks for {missing[0]} and {len(missing) - 1} others")
    if unknown := sorted(set(files.names()) - wanted):
        raise CheckpointError(f"{folder}: {unknown[0]} and {len(unknown) - 1} others are not in adapter_config.json")
    return Adapter(name, config, files, saved, targets)


def _read_config(folder: Path) -> LoraConfig:
    path = folder / "adapter_config.json"
    if (kind := read_json(path).get("peft_type")) != "LORA":
        raise CheckpointError(f"{path}: peft_type is {kind}; only LORA adapters are supported")
    try:
        config: LoraConfig = LoraConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    unsupported = {
        "bias": config.bias != "none",
        "use_dora": config.use_dora,
        "fan_in_fan_out": config.fan_in_fan_out,
        "layer_replication": bool(config.layer_replication),
        "lora_bias": config.lora_bias,
    }
    if found := [name for name, present in unsupported.items() if present]:
        raise CheckpointError(f"{folder}: adapters with {', '.join(found)} are not supported")
    return config


def _saved_prefix(module: str, folder: Path) -> str:
    if module not in SAVED_MODULES:
        known = ", ".join(SAVED_MODULES)
        raise CheckpointError(f"{folder}: modules_to_save has {module}; only {known} can be an adapter's own")
    return SAVED_MODULES[module]
