"""A real pipeline of diffusers, tiny and with random weights, behind a gate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from m3agiqa.client import Client, Gate
from m3agiqa.client.images import bytes_of
from m3agiqa.errors import UsageError
from producers.integrations.diffusers import GatedPipeline
from tests.judge import Judge
from tests.m3agiqa.client.test_gate import inline

CHANNELS, WIDTH = 4, 32


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz")]
    words = [*letters, "<|startoftext|>", "<|endoftext|>"]
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    made = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(WIDTH,),
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            latent_channels=CHANNELS,
            sample_size=16,
        ),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=CLIPTokenizer(
            vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=77
        ),
        unet=UNet2DConditionModel(
            sample_size=16,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            layers_per_block=1,
            block_out_channels=(WIDTH, WIDTH),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def test_a_pipelines_images_are_kept_by_their_verdicts(
    pipeline: StableDiffusionPipeline, client: Client, judge: Judge
) -> None:
    # when a pipeline draws two images of each of two prompts
    prompts = ["accept a cat", "reject a dog"]
    gated = GatedPipeline(pipeline, Gate(client))(prompts, num_images_per_prompt=2, num_inference_steps=1)
    # then each image was judged by its own prompt, and the accepted ones are kept
    drawn = gated.output.images
    assert [one.prompt for one in gated.judged] == ["accept a cat", "accept a cat", "reject a dog", "reject a dog"]
    assert {request.image_url: request.prompt for request in judge.asked} == {
        inline(bytes_of(image)): prompt
        for image, prompt in zip(drawn, [*prompts[:1] * 2, *prompts[1:] * 2], strict=True)
    }
    assert gated.images == drawn[:2]
    assert [one.why for one in gated.judged][2:] == ["quality 0.50 < reject_below 1.50"] * 2


def test_diffusers_draws_in_the_order_that_the_gate_pairs(pipeline: StableDiffusionPipeline) -> None:
    # when a pipeline reads two prompts for two images each
    read, _ = pipeline.encode_prompt(["a", "zzzz"], "cpu", num_images_per_prompt=2, do_classifier_free_guidance=False)
    # then those of the first prompt come first
    assert len(read) == 4
    assert torch.equal(read[0], read[1])
    assert torch.equal(read[2], read[3])
    assert not torch.equal(read[0], read[2])


def test_one_prompt_and_options_reach_the_pipeline(
    client: Client, judge: Judge, pipeline: StableDiffusionPipeline
) -> None:
    gated = GatedPipeline(pipeline, Gate(client))("accept", height=24, width=16, num_inference_steps=1)
    assert [image.size for image in gated.images] == [(16, 24)]
    assert len(judge.asked) == 1


@pytest.mark.parametrize("options", [{"output_type": "latent"}, {"return_dict": False}])
def test_what_a_gate_cannot_look_at_is_refused_before_anything_is_drawn(client: Client, options: Any) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("it was called")

    with pytest.raises(UsageError, match="output_type='pil'"):
        GatedPipeline(never, Gate(client))("a cat", **options)
