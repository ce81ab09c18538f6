from __future__ import annotations

import numpy as np
import pytest

from m3agiqa.cutting import WHOLE_PIXELS, Cutter
from m3agiqa.images import noise_image
from m3agiqa.model.slicing import Grid, Slicing

CUTTER = Cutter(Slicing(), (9, 4))


def test_a_image_is_cut_for_its_description_and_its_scores() -> None:
    image = noise_image(1024, 1024, seed=1)

    cut = CUTTER.cut(image)

    assert list(cut.slices) == [Grid(3, 2), Grid(2, 2)]
    for grid, slices in cut.slices.items():
        expected = Slicing().cut(image.rgb, grid)
        assert slices.sizes == expected.sizes
        assert all(np.array_equal(mine, its) for mine, its in zip(slices.patches, expected.patches, strict=True))


def test_other_grids_can_be_cut_from_what_is_kept() -> None:
    image = noise_image(640, 480, seed=1)
    cut = CUTTER.cut(image)
    assert cut.raw_size == (640, 480)
    assert cut.rgb.tobytes() == image.rgb.tobytes()


@pytest.mark.parametrize(("width", "height"), [(2600, 2600), (7000, 700), (600, 8000)])
def test_of_a_large_image_a_smaller_copy_is_kept(width: int, height: int) -> None:
    image = noise_image(width, height, seed=1)

    cut = CUTTER.cut(image)

    assert np.prod(cut.raw_size) <= WHOLE_PIXELS
    assert cut.raw_size[0] / cut.raw_size[1] == pytest.approx(width / height, rel=0.01)
    assert (cut.info.width, cut.info.height) == (width, height)
    fewer = Slicing().grid(width, height, 2)
    assert Slicing().cut(cut.rgb, fewer).longest <= 1100
    assert cut.size_bytes < 40_000_000
