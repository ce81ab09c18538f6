"""Images as a caller has them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from m3agiqa.client.images import bytes_of
from m3agiqa.errors import RequestInvalid
from tests.support import png

DATA = png(7)


def test_bytes_of_whatever_holds_an_image(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(DATA)
    encoded = base64.b64encode(DATA).decode()
    with file.open("rb") as opened:
        given: list[Any] = [DATA, bytearray(DATA), memoryview(DATA), file, opened, io.BytesIO(DATA)]
        given += [f"data:image/png;base64,{encoded}", f"DATA:;BASE64,{encoded.replace('+', '%2B')}"]
        assert [bytes_of(one) for one in given] == [DATA] * len(given)
    assert bytes_of("data:,a%20b") == b"a b"


def test_an_image_of_pillow_becomes_a_png_that_stands_upright() -> None:
    # given an image that its EXIF turns
    image = Image.new("RGB", (3, 2))
    image.getexif()[0x0112] = 6
    # then the file has its pixels as they are shown
    with Image.open(io.BytesIO(bytes_of(image))) as read:
        assert (read.format, read.size, dict(read.getexif())) == ("PNG", (2, 3), {})


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (b"", "must be bytes"),
        (Path("/no/such/secret.png"), "leads to no file"),
        (Path("/"), "leads to no file"),
        (Path("/dev/zero"), "leads to no file"),
        (Path("a\0b"), "leads to no file"),
        # A text may be a stranger's, who wants a file of ours.
        ("/etc/hostname", "must be bytes"),
        (io.StringIO("text"), "must be bytes"),
        (7, "must be bytes"),
        ("data:image/png;base64,%%%", "base64 is malformed"),
        ("data:image/png", "must be bytes"),
        (Image.new("F", (2, 2)), "cannot be read"),
    ],
)
def test_what_is_no_image_is_refused_without_its_path(image: Any, why: str) -> None:
    with pytest.raises(RequestInvalid, match=f"^image: .*{why}") as refused:
        bytes_of(image)
    assert "secret" not in str(refused.value)
