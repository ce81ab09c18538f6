from collections.abc import Callable

import pytest
import torch
from PIL import Image

from m3agiqa.images import noise_image
from m3agiqa.model.slicing import Slicing
from m3agiqa.train.base.views import altered, cut, random_views, resized

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
    for cells, others in zip(found.cells, expected.patches, strict=True):
        rows = torch.as_tensor(others).unflatten(-1, (-1, SLICING.patch)).permute(2, 0, 1, 3).flatten(1)
        assert cells.shape == (2, *rows.shape)
        assert int((cells.int() - rows.int()).abs().max()) <= 2


def test_a_view_is_a_part_of_its_image() -> None:
    # given images, each pixel with its position in its value
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    images = torch.stack([rows, columns, torch.zeros(64, 64, dtype=torch.int64)]).to(torch.uint8).repeat(9, 1, 1, 1)
    # when
    views = random_views(images, (56, 32), torch.Generator().manual_seed(0))
    # then
    assert views.shape == (9, 3, 32, 56)
    corners, mirrored = set(), []
    for view in views:
        mirrored.append(bool(view[1, 0, 0] > view[1, 0, -1]))
        view = view.flip(-1) if mirrored[-1] else view
        top, left = int(view[0, 0, 0]), int(view[1, 0, 0])
        assert torch.equal(view, images[0, :, top : top + 32, left : left + 56])
        corners.add((top, left))
    assert len(corners) > 3
    assert 0 < sum(mirrored) < 9


@pytest.mark.parametrize("make", [lambda images, seed: random_views(images, (32, 32), seed), altered])
def test_views_differ_by_their_seed_alone(make: Callable[[torch.Tensor, torch.Generator], torch.Tensor]) -> None:
    images = torch.stack([pixels(noise_image(64, 64, seed).rgb).permute(2, 0, 1) for seed in range(4)])

    first, again, other = (make(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("seed", range(6))
def test_an_altered_view_is_no_view_that_somebody_scored(seed: int) -> None:
    images = torch.stack([pixels(noise_image(64, 64, number).rgb).permute(2, 0, 1) for number in range(4)])

    views = altered(images, torch.Generator().manual_seed(seed))

    assert (views.shape, views.dtype) == (images.shape, images.dtype)
    assert not any(torch.equal(view, image) for view in views for image in images)


def test_nothing_is_done_to_what_has_its_size() -> None:
    image = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    assert resized(image, (48, 32)) is image
