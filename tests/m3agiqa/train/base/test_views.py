import pytest
import torch
from PIL import Image

from m3agiqa.images import noise_image
from m3agiqa.model.slicing import Slicing
from m3agiqa.train.base.views import Places, cut, resized

SLICING = Slicing(patch=16, scale=64)


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)


@pytest.mark.parametrize(("width", "height"), [(128, 128), (48, 64), (200, 90)])
def test_images_are_cut_as_for_scoring(width: int, height: int) -> None:
    # given
    image = noise_image(width, height, seed=1).rgb
    expected = SLICING.cut(image, SLICING.grid(width, height, 9))
    # when
    found = cut(pixels(image).permute(2, 0, 1)[None].expand(2, -1, -1, -1), SLICING, 9)
    # then both images of the batch; where a slice is resized, Pillow rounds after each direction as well
    assert found.grid == expected.grid
    assert tuple(found.sizes) == expected.sizes
    for patches, others in zip(found.patches, expected.patches * 2, strict=True):
        assert patches.shape == others.shape
        assert int((patches.int() - torch.as_tensor(others).int()).abs().max()) <= 2


def test_a_view_lies_at_the_same_place_in_all_that_is_known_of_its_image() -> None:
    # given images, each pixel with its place in its value, and a map of theirs four times as coarse
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    images = torch.stack([rows, columns, torch.zeros(64, 64, dtype=torch.int64)]).to(torch.uint8).repeat(9, 1, 1, 1)
    maps = images[:, :, ::4, ::4].clone()
    places = Places.random(9, (8, 2), torch.Generator().manual_seed(0))
    # when
    views, seen = places.take(images, (56, 32), 4), places.take(maps, (14, 8), 1)
    # then
    assert views.shape == (9, 3, 32, 56)
    for number, (top, left) in enumerate(places.corners):
        view, part = views[number], seen[number]
        if places.mirrored[number]:
            view, part = view.flip(-1), part.flip(-1)
        assert torch.equal(view, images[number, :, 4 * top : 4 * top + 32, 4 * left : 4 * left + 56])
        assert torch.equal(part, view[:, ::4, ::4])
    assert len(set(places.corners)) > 3
    assert 0 < places.mirrored.sum() < 9


def test_views_differ_by_their_seed_alone() -> None:
    first, again, other = (Places.random(20, (9, 9), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))

    assert first.corners == again.corners != other.corners
    assert torch.equal(first.mirrored, again.mirrored)


def test_nothing_is_done_to_what_has_its_size() -> None:
    image = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    assert resized(image, (48, 32)) is image
