from __future__ import annotations

import torch
from transformers.models.idefics2.configuration_idefics2 import Idefics2VisionConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

from m3agiqa.model.encoder import encode


@torch.inference_mode()
def test_the_layers_are_transformers_own() -> None:
    # given a tower with random weights
    torch.manual_seed(0)
    config = Idefics2VisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, patch_size=14
    )
    config._attn_implementation = "sdpa"
    vision = Idefics2VisionTransformer(config).eval()
    states = torch.randn(2, 9, 32)

    expected = vision.post_layernorm(vision.encoder(inputs_embeds=states.clone()).last_hidden_state)

    assert torch.allclose(encode(vision, states), expected, atol=1e-5)
