"""The golden cases: those in the repository, and more where a checkout has them beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from m3agiqa.contract import Aspect
from m3agiqa.cutting import Cutter
from m3agiqa.engine.encoding import EncodedImage
from m3agiqa.engine.loading import Network, load_network
from m3agiqa.engine.lora import Groups
from m3agiqa.engine.scoring import Engine
from m3agiqa.images import DecodedImage, open_image
from m3agiqa.profile import AspectProfile, Describe, ModelProfile

CPU = torch.device("cpu")
BUNDLED = Path(__file__).parents[1] / "golden"
SHARED = Path(__file__).parents[3] / "shared"

#: The original's inference wording.
WORDS = {
    Aspect.QUALITY: (
        "Please closely examine this AI-generated image and provide a detailed analysis of its overall quality. "
        "The original prompt for the image was: '{prompt}'. Consider aspects like visual clarity, composition, "
        "color balance, and technical execution.",
        "Based on your analysis, could you please rate the image's overall quality? Choose one word from the "
        "following list: [bad, poor, fair, good, excellent], where the words range from low to high quality.",
    ),
    Aspect.CORRESPONDENCE: (
        "Please closely examine this AI-generated image and provide a detailed analysis of its alignment with the "
        "original prompt. The original prompt for the image was: '{prompt}'. How well does the image match what "
        "was requested in the prompt?",
        "Based on your analysis, could you please rate the image's alignment with its original prompt? Choose one "
        "word from the following list: [bad, poor, fair, good, excellent], where the words indicate the degree of "
        "alignment from low to high.",
    ),
    Aspect.AUTHENTICITY: (
        "Please closely examine this AI-generated image and provide a detailed analysis of its authenticity. The "
        "original prompt for the image was: '{prompt}'. How closely does the image resemble real artworks or "
        "scenes? Highlight any parts of the image that appear non-real or artificial.",
        "Based on your analysis, could you please rate the image's authenticity? Choose one word from the "
        "following list: [bad, poor, fair, good, excellent], where the words indicate the degree of authenticity "
        "from low to high.",
    ),
}


class Case:
    """One golden case and the parts of the system it runs through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.aspect = Aspect(self.facts["aspect"])
        self.prompt: str = self.facts["prompt"]
        self.model = folder.parent / self.facts["model_dir"]

    @property
    def image(self) -> DecodedImage:
        own = self.folder / "image.png"
        other = self.folder.parent / self.folder.name.rpartition("_ctx")[0] / "image.png"
        return open_image((own if own.exists() else other).read_bytes())

    @property
    def stages(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "stages.safetensors")

    @property
    def network(self) -> Network:
        return _network(self.model, self.aspect)

    @property
    def analysis(self) -> str:
        return WORDS[self.aspect][0].replace("{prompt}", self.prompt)

    @property
    def question(self) -> str:
        return WORDS[self.aspect][1]

    def embedded(self, ids: Sequence[int], bounds: Sequence[Sequence[int]], max_slices: int) -> torch.Tensor:
        """Embeddings [tokens, hidden] of a conversation, the image's in their places."""
        network = self.network
        image = EncodedImage(Cutter(network.slicing, (9,)).cut(self.image), network.slicing, network.language.device)
        embedded = network.language.embed(torch.tensor(ids), Groups.from_counts([(0, len(ids))], 1))
        slices = image.embeddings(network.towers[self.aspect], image.grid(max_slices))
        for (start, end), part in zip(bounds, slices, strict=True):
            embedded[start:end] = part
        return embedded

    def describe(self, kind: str = "gen") -> Describe:
        settings = self.facts["llm_generate_kwargs"][kind]
        return Describe(
            num_beams=settings["num_beams"],
            repetition_penalty=settings["repetition_penalty"],
            max_new_tokens=settings["max_new_tokens"],
        )

    @property
    def profile(self) -> ModelProfile:
        part = AspectProfile(
            adapter="golden",
            head="golden",
            max_slices=self.facts["cfg"]["max_slice_nums"],
            context=self.facts["cfg"]["model_max_length"],
            analysis=WORDS[self.aspect][0],
            question=self.question,
        )
        return ModelProfile(name="golden", base="golden", describe=self.describe(), aspects={self.aspect: part})

    @property
    def engine(self) -> Engine:
        return Engine(self.network, self.profile, CPU)


@cache
def _network(model: Path, aspect: Aspect) -> Network:
    return load_network(
        model / "base",
        {aspect: model / "adapters" / aspect},
        {aspect: model / "heads" / f"{aspect}.ckpt"},
        device=CPU,
        dtype=torch.float32,
    )


def _cases() -> list[Any]:
    bundled = {folder.parent.name: folder.parent for folder in sorted(BUNDLED.glob("*/case.json"))}
    shared = {folder.parent.name: folder.parent for folder in sorted((SHARED / "golden").glob("*/case.json"))}
    found = [pytest.param(Case(folder), id=name) for name, folder in {**shared, **bundled}.items()]
    if not shared:
        reason = "the further golden cases are not beside this checkout"
        found.append(pytest.param(None, id="further", marks=pytest.mark.skip(reason=reason)))
    return found


CASES = _cases()
every_case = pytest.mark.parametrize("case", CASES)
published = pytest.mark.skipif(
    not (SHARED / "published").is_dir(), reason="the published base's files are not beside this checkout"
)


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """Within `tolerance` of the expected values' largest."""
    return bool((actual - expected).abs().max() <= tolerance * expected.abs().max())
