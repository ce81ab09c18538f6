"""Writes checkpoints of random weights in the published layout, for tests and for measuring at the published shapes."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from m3agiqa.model.language import LlamaShape
from m3agiqa.model.vision import Tower
from m3agiqa.outputs import write

#: Bytes of one shard of the base.
_SHARD_BYTES = 4 * 2**30

#: Special tokens of MiniCPM-Llama3-V-2.5, in the order of their ids, behind the vocabulary.
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<unk>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<image>",
    "</image>",
    "<slice>",
    "</slice>",
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a network; the defaults are the published ones."""

    vocab: int = 128_256
    hidden: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    ffn: int = 14_336
    vision_hidden: int = 1152
    vision_layers: int = 27
    vision_heads: int = 16
    vision_ffn: int = 4304
    #: Side of a patch and of a square slice, pixels.
    patch: int = 14
    scale: int = 448
    #: Entries of the tower's position table along one side.
    positions: int = 70
    queries: int = 96
    rank: int = 64
    head_width: int = 512
    #: Modules each adapter brings whole.
    saved: tuple[str, ...] = ("embed_tokens", "resampler", "vpm")

    def config(self) -> dict[str, Any]:
        """The base's `config.json`."""
        return {
            "model_type": "minicpmv",
            "version": "2.5",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "hidden_act": "silu",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-05,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "query_num": self.queries,
            "vision_config": {
                "model_type": "idefics2",
                "hidden_size": self.vision_hidden,
                "intermediate_size": self.vision_ffn,
                "num_hidden_layers": self.vision_layers,
                "num_attention_heads": self.vision_heads,
                "image_size": self.positions * self.patch,
                "patch_size": self.patch,
            },
            "slice_config": {"patch_size": self.patch, "scale_resolution": self.scale},
        }


#: What tests take.
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
    language = LlamaShape.of(config).tensors()
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


def write_description(folder: Path, shape: Shape, tokenizer: Tokenizer) -> None:
    """Write what stands beside a base's weights: config.json and tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "config.json", json.dumps(shape.config(), indent=1) + "\n")
    write(folder / "tokenizer.json", tokenizer.to_str(pretty=True))


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


def train_tokenizer(texts: Sequence[str], vocab: int) -> Tokenizer:
    """A byte-level BPE tokenizer of `vocab` entries, SPECIAL_TOKENS included, whose id 0 is `!`, the pad token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def head_ffn(shape: Shape) -> int:
    """Width of the feed-forward layer behind a head's sLSTM, as xlstm rounds its projection factor."""
    return 64 * math.ceil(1.3 * shape.head_width / 64)


def _head_shapes(shape: Shape) -> dict[str, Sequence[int]]:
    width, inner, heads = shape.head_width, 2 * shape.head_width, 4
    ffn = head_ffn(shape)
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
