from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from m3agiqa.errors import FetchError, ImageUnreadable
from m3agiqa.report.page.thumbnails import Folder, small
from tests.m3agiqa.report.page.samples import judged
from tests.support import png


def written(folder: Path, **files: bytes) -> Folder:
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Folder(folder)


def shade(image: Image.Image) -> int:
    return image.getpixel((0, 0))[0]


def test_an_image_is_found_by_its_path_its_name_or_the_digest_of_its_content(tmp_path: Path) -> None:
    folder = written(tmp_path, a__x_png=png(1), b__x_png=png(2), y_png=png(3), other_png=png(4))
    digest = hashlib.sha256(png(4)).hexdigest()
    assert shade(folder(judged("b/x.png"))) == 2
    assert shade(folder(judged("1", image="https://images.example/9/y.png?key=1"))) == 3
    assert shade(folder(judged("1", image="https://images.example/a%20b/gone.png", image_sha256=digest))) == 4
    assert shade(folder(judged("1", image="s3://bucket/b/x.png"))) == 2
    assert shade(folder(judged("elsewhere/x.png", image_sha256=hashlib.sha256(png(2)).hexdigest()))) == 2


@pytest.mark.parametrize(
    ("image", "digest", "why"),
    [
        ("missing.png", None, "not in the folder"),
        ("c/x.png", None, "2 files have this name"),
        ("a/x.png", "0" * 64, "another image now"),
        ("", None, "not in the folder"),
        ("..", None, "not in the folder"),
        ("../secret.png", None, "not in the folder"),
        ("/etc/passwd", None, "not in the folder"),
        ("https://[", None, "not in the folder"),
        ("a\0b", None, "not in the folder"),
    ],
)
def test_an_image_that_is_not_there_says_so_in_words(tmp_path: Path, image: str, digest: str | None, why: str) -> None:
    (tmp_path / "secret.png").write_bytes(png(9))
    folder = written(tmp_path / "images", a__x_png=png(1), b__x_png=png(2))
    with pytest.raises(FetchError, match=why):
        folder(judged("1", image=image, image_sha256=digest))


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable):
        written(tmp_path, a_png=b"text")(judged("a.png"))


def test_a_thumbnail_is_small_and_keeps_its_proportions() -> None:
    with Image.open(io.BytesIO(small(Image.new("RGB", (1000, 500)), 512))) as image:
        assert (image.format, image.size) == ("WEBP", (512, 256))
    with Image.open(io.BytesIO(small(Image.new("RGB", (10, 20)), 512))) as image:
        assert image.size == (10, 20)
