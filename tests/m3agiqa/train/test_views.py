import pytest
import torch
from PIL import Image

from m3agiqa.images import noise_picture
from m3agiqa.model.slicing import Slicing
from m3agiqa.train.views import cut, random_views, resized

SLICING = Slicing(patch=16, scale=64)


def pixels(picture: Image.Image) -> torch.Tensor:
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(picture.height, picture.width, 3)


@pytest.mark.parametrize(("width", "height"), [(128, 128), (48, 64), (200, 90)])
def test_pictures_are_cut_as_for_scoring(width: int, height: int) -> None:
    # given
    picture = noise_picture(width, height, seed=1).rgb
    expected = SLICING.cut(picture, SLICING.grid(width, height, 9))
    # when
    found = cut(pixels(picture).permute(2, 0, 1)[None].expand(2, -1, -1, -1), SLICING, 9)
    # then both pictures of the batch; where a slice is resized, Pillow rounds after each direction as well
    assert found.grid == expected.grid
    assert tuple(found.sizes) == expected.sizes
    for patches, others in zip(found.patches, expected.patches * 2, strict=True):
        assert patches.shape == others.shape
        assert int((patches.int() - others.int()).abs().max()) <= 2


def test_a_view_is_a_part_of_its_own_picture() -> None:
    # given pictures of one value each
    pictures = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 64, 64)
    # when
    views = random_views(pictures, (96, 32), 0.5, torch.Generator().manual_seed(0))
    # then
    assert views.shape == (6, 3, 32, 96)
    assert all(bool((view == number).all()) for number, view in enumerate(views))


def test_views_differ_by_their_seed_alone() -> None:
    pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)

    first, again, other = (
        random_views(pictures, (32, 32), 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nothing_is_done_to_what_has_its_size() -> None:
    picture = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    assert resized(picture, (48, 32)) is picture
