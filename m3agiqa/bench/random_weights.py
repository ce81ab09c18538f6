"""Writes checkpoints of random weights in the published layout, for tests and for measuring at the published shapes."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from tokenizers import Tokenizer

from m3agiqa.model.language import LlamaShape
from m3agiqa.model.shape import Shape
from m3agiqa.model.vision import Tower
from m3agiqa.model.writing import write_description
from m3agiqa.outputs import write

#: Bytes of one shard of the base.
_SHARD_BYTES = 4 * 2**30

#: The network that tests use.
TINY = Shape(
    vocab=512,
    hidden=128,
    layers=2,
    heads=4,
    kv_heads=2,
    ffn=256,
    vision_hidden=64,
    vision_layers=2,
    vision_heads=4,
    vision_ffn=128,
    queries=16,
    rank=4,
    head_width=64,
    saved=("resampler",),
)


class RandomTensors:
    """Tensors that are drawn when asked for: norms of about one, everything else normal with the variance that keeps
    activations' size. The same seed and name give the same numbers on the same kind of device.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], seed: int) -> None:
        self.shapes = shapes
        self.seed = seed

    def names(self) -> list[str]:
        return list(self.shapes)

    def count(self, key: str) -> int:
        return math.prod(self.shapes[key])

    def read(self, key: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        size = self.shapes[key]
        generator = torch.Generator(device).manual_seed(zlib.crc32(f"{self.seed} {key}".encode()))
        tensor = torch.randn(*size, generator=generator, device=device, dtype=torch.float32)
        if len(size) == 1:
            tensor *= 0.1
            is_norm = "norm" in key.rsplit(".", 2)[-2] or ".ln_" in key
            if is_norm and key.endswith("weight") and not key.startswith("model."):  # heads store them less one
                tensor += 1.0
        elif key.endswith("embedding.weight"):
            tensor *= 0.5
        else:
            tensor *= size[-1] ** -0.5
        if key == "model.fc.2.weight":
            tensor *= 2.5
        if key == "model.fc.2.bias":
            tensor += 2.5
        return tensor.to(dtype)


def base_tensors(shape: Shape, seed: int) -> RandomTensors:
    config = shape.config()
    with torch.device("meta"):
        tower = Tower(config["vision_config"], shape.hidden, shape.queries)
    language = LlamaShape.from_config(config).tensors()
    return RandomTensors({**language, **{key: tensor.shape for key, tensor in tower.state_dict().items()}}, seed)


def adapter_tensors(shape: Shape, seed: int) -> RandomTensors:
    """LoRA on the attention, and `shape.saved` whole."""
    base = base_tensors(shape, seed).shapes
    shapes = {key: size for key, size in base.items() if any(f"{part}." in key for part in shape.saved)}
    for key, size in base.items():
        if "llm." in key and ".self_attn." in key:
            module = key.removesuffix(".weight")
            shapes[f"{module}.lora_A.weight"] = (shape.rank, size[1])
            shapes[f"{module}.lora_B.weight"] = (size[0], shape.rank)
    return RandomTensors({f"base_model.model.{key}": size for key, size in shapes.items()}, seed)


def adapter_config(shape: Shape) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "r": shape.rank,
        "lora_alpha": shape.rank,
        "target_modules": r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)",
        "modules_to_save": list(shape.saved),
        "bias": "none",
        "inference_mode": True,
    }


def head_tensors(shape: Shape, seed: int) -> RandomTensors:
    """A head under the published names, sLSTM in the CUDA backend's layout."""
    return RandomTensors(_head_shapes(shape), seed)


def write_base(
    folder: Path,
    shape: Shape,
    tokenizer: Tokenizer,
    *,
    seed: int,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a base: config.json, tokenizer.json, and one safetensors file or shards with an index."""
    write_description(folder, shape, tokenizer)
    shards: list[dict[str, torch.Tensor]] = [{}]
    written: list[list[str]] = []
    size = 0
    tensors = base_tensors(shape, seed)
    for key in tensors.names():
        tensor = tensors.read(key, torch.device("cpu"), dtype)
        if size and size + tensor.nbytes > _SHARD_BYTES:
            written.append(_write_shard(folder, len(written), shards.pop()))
            shards.append({})
            size = 0
        shards[0][key] = tensor
        size += tensor.nbytes
    if not written:
        save_file(shards[0], folder / "model.safetensors")
        return
    written.append(_write_shard(folder, len(written), shards[0]))
    weight_map = {key: _shard_name(number) for number, keys in enumerate(written) for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_adapter(folder: Path, shape: Shape, *, seed: int, dtype: torch.dtype = torch.float16) -> None:
    """Write an adapter in PEFT's format: LoRA on the attention, and `shape.saved` whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(shape), indent=1) + "\n")
    _save(adapter_tensors(shape, seed), folder / "adapter_model.safetensors", dtype)


def write_head(path: Path, shape: Shape, *, seed: int, dtype: torch.dtype = torch.float16) -> None:
    """Write a head as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(head_tensors(shape, seed), path, dtype)


def _save(tensors: RandomTensors, path: Path, dtype: torch.dtype) -> None:
    write(path, save({key: tensors.read(key, torch.device("cpu"), dtype) for key in tensors.names()}))


def _head_shapes(shape: Shape) -> dict[str, Sequence[int]]:
    width, inner, heads = shape.head_width, 2 * shape.head_width, 4
    ffn = shape.head_ffn
    shapes: dict[str, Sequence[int]] = {
        "W.weight": (width, shape.vocab),
        "W.bias": (width,),
        "fc.0.weight": (128, width),
        "fc.0.bias": (128,),
        "fc.2.weight": (1, 128),
        "fc.2.bias": (1,),
        "xlstm_pooler.xlstm_stack.post_blocks_norm.weight": (width,),
    }
    slstm = {
        "xlstm_norm.weight": (width,),
        "xlstm.conv1d.conv.weight": (width, 1, 4),
        "xlstm.conv1d.conv.bias": (width,),
        **{f"xlstm.{gate}gate.weight": (heads, width // heads, width // heads) for gate in "fizo"},
        "xlstm.slstm_cell._recurrent_kernel_": (heads, width // heads, 4 * width // heads),
        "xlstm.slstm_cell._bias_": (4 * width,),
        "xlstm.group_norm.weight": (width,),
        "ffn_norm.weight": (width,),
        "ffn.proj_up.weight": (2 * ffn, width),
        "ffn.proj_down.weight": (width, ffn),
    }
    mlstm = {
        "xlstm_norm.weight": (width,),
        "xlstm.learnable_skip": (inner,),
        "xlstm.proj_up.weight": (2 * inner, width),
        **{f"xlstm.{part}_proj.weight": (inner // 4, 4, 4) for part in "qkv"},
        "xlstm.conv1d.conv.weight": (inner, 1, 4),
        "xlstm.conv1d.conv.bias": (inner,),
        **{f"xlstm.mlstm_cell.{gate}gate.weight": (heads, 3 * inner) for gate in "if"},
        **{f"xlstm.mlstm_cell.{gate}gate.bias": (heads,) for gate in "if"},
        "xlstm.mlstm_cell.outnorm.weight": (inner,),
        "xlstm.proj_down.weight": (width, inner),
    }
    for index, block in enumerate((mlstm, slstm, mlstm, mlstm)):
        shapes |= {f"xlstm_pooler.xlstm_stack.blocks.{index}.{key}": size for key, size in block.items()}
    return {f"model.{key}": size for key, size in shapes.items()}


def _write_shard(folder: Path, number: int, tensors: dict[str, torch.Tensor]) -> list[str]:
    save_file(tensors, folder / _shard_name(number))
    return list(tensors)


def _shard_name(number: int) -> str:
    return f"model-{number + 1:05d}.safetensors"
