"""Profiles: the published ones word for word, and the messages for wrong files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from m3agiqa import config
from m3agiqa.contract import Aspect
from m3agiqa.errors import ConfigError
from m3agiqa.profile import RANDOM, HubHead, HubRef, ModelProfile

QUALITY, CORRESPONDENCE, AUTHENTICITY = Aspect

QUESTION = {
    QUALITY: "Based on your analysis, could you please rate the image's overall quality? Choose one word from the "
    "following list: [bad, poor, fair, good, excellent], where the words range from low to high quality.",
    CORRESPONDENCE: "Based on your analysis, could you please rate the image's alignment with its original prompt? "
    "Choose one word from the following list: [bad, poor, fair, good, excellent], where the words indicate the degree "
    "of alignment from low to high.",
    AUTHENTICITY: "Based on your analysis, could you please rate the image's authenticity? Choose one word from the "
    "following list: [bad, poor, fair, good, excellent], where the words indicate the degree of authenticity from low "
    "to high.",
}
INFERENCE = {
    QUALITY: "Please closely examine this AI-generated image and provide a detailed analysis of its overall quality. "
    "The original prompt for the image was: '{prompt}'. Consider aspects like visual clarity, composition, color "
    "balance, and technical execution.",
    CORRESPONDENCE: "Please closely examine this AI-generated image and provide a detailed analysis of its alignment "
    "with the original prompt. The original prompt for the image was: '{prompt}'. How well does the image match what "
    "was requested in the prompt?",
    AUTHENTICITY: "Please closely examine this AI-generated image and provide a detailed analysis of its authenticity. "
    "The original prompt for the image was: '{prompt}'. How closely does the image resemble real artworks or scenes? "
    "Highlight any parts of the image that appear non-real or artificial.",
}
TRAINING = {
    QUALITY: "Please closely examine this AI-generated image and provide a detailed analysis of its content and "
    "quality. The original prompt for the image was: '{prompt}' What can you deduce about the image based on this "
    "prompt, and how would you assess its overall quality?",
    CORRESPONDENCE: "Please closely examine this AI-generated image and provide a detailed analysis of how well it "
    "aligns with the original prompt: '{prompt}'.",
    AUTHENTICITY: INFERENCE[AUTHENTICITY] + "\n",
}
#: Adapter, head's file, tokens of context, most slices.
PARTS = {
    QUALITY: (
        "strawhat/minicpm2.5-AIGIQA-20k-ft",
        "aigciqa-30k/quality/best-epoch=11-val_SRCC=0.89.ckpt",
        768,
        4,
    ),
    CORRESPONDENCE: (
        "strawhat/minicpm2.5-agiqa-3k-corr-ft",
        "agiqa-3k/alignment/best-epoch=14-val_SRCC=0.87.ckpt",
        512,
        9,
    ),
    AUTHENTICITY: (
        "strawhat/minicpm2.5-aigciqa2023-auth-ft",
        "aigciqa2023/authenticity/best-epoch=15-val_SRCC=0.83.ckpt",
        512,
        9,
    ),
}


@pytest.mark.parametrize(("name", "analysis"), [("published", INFERENCE), ("published-training-wording", TRAINING)])
def test_the_published_profiles_are_the_original_word_for_word(name: str, analysis: dict[Aspect, str]) -> None:
    profile = ModelProfile.load(name)

    assert profile.base == "openbmb/MiniCPM-Llama3-V-2_5"
    assert (profile.dtype, profile.trained) == ("float16", True)
    describe = profile.describe
    assert (describe.num_beams, describe.repetition_penalty, describe.max_new_tokens, describe.max_slices) == (
        3, 1.2, 1024, 9,
    )  # fmt: skip
    assert list(profile.aspects) == list(Aspect)
    for aspect, section in profile.aspects.items():
        head = HubHead(repo="strawhat/m3-agiqa-predictor-checkpoints", file=PARTS[aspect][1])
        assert (section.adapter, section.head, section.context, section.max_slices) == (
            PARTS[aspect][0],
            head,
            *PARTS[aspect][2:],
        )
        assert section.analysis == analysis[aspect]
        assert section.question == QUESTION[aspect]


def test_every_published_adapter_is_reachable() -> None:
    adapters = {
        section.adapter for name in config.names("models") for section in ModelProfile.load(name).aspects.values()
    }  # fmt: skip
    assert adapters >= {
        "strawhat/minicpm2.5-AIGIQA-20k-ft",
        "strawhat/minicpm2.5-agiqa-3k-corr-ft",
        "strawhat/minicpm2.5-aigciqa2023-auth-ft",
        "strawhat/minicpm2.5-agiqa-3k-ft",
        "strawhat/minicpm2.5-aigciqa2023-ft",
        "strawhat/minicpm2.5-aigciqa2023-corr-ft",
    }


@pytest.mark.parametrize("name", config.names("models"))
def test_every_profile_that_ships_loads_and_finds_its_parts(name: str) -> None:
    profile = ModelProfile.load(name)
    assert profile.name == name
    for section in profile.aspects.values():
        for part in (section.adapter, section.head if isinstance(section.head, str) else section.head.repo):
            assert part == RANDOM or profile.source(part)


def write_profile(folder: Path, **changes: object) -> str:
    aspect = {
        "adapter": "lab/adapter@v1",
        "head": "head.ckpt",
        "max_slices": 4,
        "context": 512,
        "analysis": "Look at '{prompt}'",
        "question": "How good?",
    }
    aspect |= {name.removeprefix("aspect_"): value for name, value in changes.items() if name.startswith("aspect_")}
    top = {name: value for name, value in changes.items() if not name.startswith("aspect_")}
    file = folder / "lab.yaml"
    file.write_text(yaml.safe_dump({"name": "lab", "base": "lab/base", "aspects": {"quality": aspect}} | top))
    return str(file)


def test_references_are_folders_beside_the_file_or_places_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    profile = ModelProfile.load(write_profile(tmp_path))

    assert profile.source("base") == tmp_path / "base"
    assert profile.source(str(tmp_path / "base")) == tmp_path / "base"
    assert profile.source("lab/base") == HubRef("lab/base")
    assert profile.source("lab/base@v1.0") == HubRef("lab/base", "v1.0")
    assert str(HubRef("lab/base", "v1.0")) == "lab/base@v1.0"


@pytest.mark.parametrize(
    "reference", ["nothing", "./lab/base", "../lab", "/no/such/folder", "a/b/c", "lab/base@", "x" * 300]
)
def test_what_is_neither_is_a_wrong_profile(tmp_path: Path, reference: str) -> None:
    profile = ModelProfile.load(write_profile(tmp_path))
    with pytest.raises(ConfigError, match="no hub id"):
        profile.source(reference)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"aspect_analysis": "of {promt}"}, "aspects.quality.analysis: .*{prompt} at most once"),
        ({"aspect_analysis": "{prompt} {prompt}"}, "at most once"),
        ({"aspect_head": {"repo": "no-owner", "file": "x"}}, "must be a hub id"),
        ({"aspect_max_slices": 0}, "aspects.quality.max_slices"),
        ({"aspect_context": 1}, "aspects.quality.context"),
        ({"aspect_colour": 1}, "aspects.quality.colour: Extra"),
        ({"beams": 1}, "beams: Extra"),
        ({"describe": {"num_beams": 0}}, "describe.num_beams"),
        ({"aspects": {}}, "aspects: .*at least 1"),
        ({"aspects": {"beauty": {}}}, "aspects.beauty"),
        ({"dtype": "int4"}, "dtype"),
        ({"precision": "float4"}, "precision"),
        ({"precision": "float8", "dtype": "float32"}, "goes with a dtype of float16 or bfloat16"),
        ({"tolerance": 0}, "tolerance"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"lab\.yaml: .*{said}"):
        ModelProfile.load(write_profile(tmp_path, **changes))


def test_an_aspect_may_do_without_the_prompt(tmp_path: Path) -> None:
    profile = ModelProfile.load(write_profile(tmp_path, aspect_analysis="Look at this image."))

    assert profile.aspects[Aspect.QUALITY].analysis == "Look at this image."


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"one of: .*published"):
        ModelProfile.load("publishd")


def test_random_weights_are_random_throughout_and_say_so() -> None:
    profile = ModelProfile.load("random")
    assert profile.trained is False

    for change in ({"trained": True}, {"base": "openbmb/MiniCPM-Llama3-V-2_5"}):
        with pytest.raises(ValidationError, match="random weights go with"):
            ModelProfile.model_validate({**profile.model_dump(), **change})
