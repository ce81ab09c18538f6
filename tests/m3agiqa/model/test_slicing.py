import hashlib

import pytest
from PIL import Image

from m3agiqa.model.slicing import PATCH, Grid, choose_grid, normalise, slice_picture
from tests.m3agiqa.golden import Case, every_case


@every_case
@pytest.mark.parametrize("stage", ["gen", "score"])
def test_pixels_are_the_originals_to_the_bit(case: Case, stage: str) -> None:
    picture = case.picture
    max_slices = 9 if stage == "gen" else case.facts["cfg"]["max_slice_nums"]

    slices = slice_picture(picture.rgb, choose_grid(*picture.rgb.size, max_slices))

    digests = [hashlib.sha256(normalise(patch).numpy().tobytes()).hexdigest() for patch in slices.patches]
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
    assert choose_grid(*size, max_slices) == grid


@pytest.mark.parametrize("size", [(1, 1), (13, 7), (100, 3000), (1, 90), (5000, 60), (449, 449)])
def test_every_slice_is_whole_patches(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, "red")

    slices = slice_picture(picture, choose_grid(*size, 9))

    assert len(slices.patches) == 1 + slices.grid.slices
    for patch, (height, width) in zip(slices.patches, slices.sizes, strict=True):
        assert patch.shape == (3, PATCH, PATCH * height * width)
        assert patch[0].min() == patch[0].max() == 255
        assert normalise(patch)[1].min() == normalise(patch)[1].max() == -1
