import hashlib

import pytest
import torch
from PIL import Image

from m3agiqa.model.slicing import Grid, Slicing
from m3agiqa.model.vision import normalise
from tests.m3agiqa.golden import Case, every_case


@every_case
@pytest.mark.parametrize("stage", ["gen", "score"])
def test_pixels_are_the_originals_to_the_bit(case: Case, stage: str) -> None:
    image = case.image
    max_slices = 9 if stage == "gen" else case.facts["cfg"]["max_slice_nums"]

    slices = Slicing().cut(image.rgb, Slicing().grid(*image.rgb.size, max_slices))

    digests = [
        hashlib.sha256(normalise(torch.as_tensor(patch)).numpy().tobytes()).hexdigest() for patch in slices.patches
    ]
    expected = case.facts["pixel_sha256"]
    assert digests == [expected[f"{stage}.pixel_values.{index}"] for index in range(len(digests))]
    assert [list(size) for size in slices.sizes] == case.facts[f"{stage}_tgt_sizes"]


@pytest.mark.parametrize(
    ("size", "max_slices", "grid"),
    [
        ((448, 448), 9, Grid(0, 0)),
        ((512, 512), 9, Grid(1, 2)),
        ((1024, 1024), 9, Grid(3, 2)),
        ((1024, 1024), 1, Grid(0, 0)),
        ((2048, 2048), 9, Grid(3, 3)),
        ((1, 1), 9, Grid(0, 0)),
        ((100, 3000), 9, Grid(1, 3)),
        ((3000, 100), 9, Grid(3, 1)),
    ],
)
def test_grid_by_area_and_proportions(size: tuple[int, int], max_slices: int, grid: Grid) -> None:
    assert Slicing().grid(*size, max_slices) == grid


@pytest.mark.parametrize("size", [(1, 1), (13, 7), (100, 3000), (1, 90), (5000, 60), (449, 449)])
def test_every_slice_is_whole_patches(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "red")

    slices = Slicing().cut(image, Slicing().grid(*size, 9))

    assert len(slices.patches) == 1 + slices.grid.slices
    for patch, (height, width) in zip(slices.patches, slices.sizes, strict=True):
        assert patch.shape == (3, 14, 14 * height * width)
        assert patch[0].min() == patch[0].max() == 255
        assert normalise(torch.as_tensor(patch))[1].min() == normalise(torch.as_tensor(patch))[1].max() == -1


def test_a_base_may_have_another_patch_and_slice_size() -> None:
    config = {"vision_config": {"patch_size": 16}, "slice_config": {"scale_resolution": 256}}
    slicing = Slicing.from_config(config)

    slices = slicing.cut(Image.new("RGB", (512, 512)), slicing.grid(512, 512, 9))

    assert slices.grid == Grid(2, 2)
    assert slices.sizes == ((16, 16),) * 5
    assert slices.patches[0].shape == (3, 16, 16 * 256)


def test_without_a_word_the_slices_are_the_published_ones() -> None:
    assert (
        Slicing.from_config({"vision_config": {"patch_size": 14}, "slice_config": {"max_slice_nums": 9}}) == Slicing()
    )
