"""The sizes of a network, from which its `config.json`, its adapters and its heads are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


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
    #: Modules that each adapter brings whole.
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

    @property
    def head_ffn(self) -> int:
        """Width of the feed-forward layer behind a head's sLSTM, as xlstm rounds its projection factor."""
        return 64 * math.ceil(1.3 * self.head_width / 64)
