"""The bundled checkpoint means what it says."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image, ImageFilter

import m3agiqa
from m3agiqa.contract import Aspect
from m3agiqa.images import open_image
from m3agiqa.jobs import Job, Scores
from m3agiqa.scorer import Scorer

MINI = Path(m3agiqa.__file__).parent / "mini"
#: Sharp photographs that come with scikit-image.
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
)


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(5))


def downscaled(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 8, image.height // 8), Image.Resampling.BICUBIC).resize(image.size)


def compressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=5)
    return Image.open(buffer)


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 40, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def mini() -> Scorer:
    return Scorer.load("mini", "cpu")


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    folder = Path(skimage.__file__).parent / "data"
    return [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]


def qualities(mini: Scorer, images: list[Image.Image]) -> list[float]:
    outcomes = mini.score([_job(image) for image in images])
    return [outcome.aspects[Aspect.QUALITY].score for outcome in outcomes if isinstance(outcome, Scores)]


def _job(image: Image.Image) -> Job:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Job(open_image(buffer.getvalue()), "a photograph", (Aspect.QUALITY,))


@pytest.mark.parametrize("spoil", [blurred, downscaled, compressed, noisy])
def test_what_spoils_a_photograph_lowers_its_quality(
    mini: Scorer, photographs: list[Image.Image], spoil: Callable[[Image.Image], Image.Image]
) -> None:
    before, after = qualities(mini, photographs), qualities(mini, [spoil(image) for image in photographs])

    assert len(before) == len(after) == 10
    assert sum(distorted < sharp for sharp, distorted in zip(before, after, strict=True)) >= 9


def test_a_sharp_image_is_described_otherwise_than_a_blurred_one(mini: Scorer, photographs: list[Image.Image]) -> None:
    sharp, blurry = mini.score([_job(photographs[0]), _job(blurred(photographs[0]))])

    assert isinstance(sharp, Scores)
    assert isinstance(blurry, Scores)
    described = [outcome.aspects[Aspect.QUALITY].description for outcome in (sharp, blurry)]
    assert described[0] != described[1]
    assert all(text.isascii() and " " in text for text in described)


def test_it_is_small_and_says_that_it_is_trained(mini: Scorer) -> None:
    assert mini.info.trained
    assert sum(path.stat().st_size for path in MINI.rglob("*") if path.is_file()) <= 14_000_000
