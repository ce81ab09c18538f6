"""Finds the images of verdicts and makes them small."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from m3agiqa.errors import FetchError
from m3agiqa.files import image_digest, read_image
from m3agiqa.paths import is_file
from m3agiqa.report.judged import Judged

#: Gives the image that was judged. Raises an M3AGIQAError, which says in words why it cannot.
Find = Callable[[Judged], Image.Image]

_QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail's file, as a path in the page's folder, or why there is none."""

    file: str | None = None
    why: str | None = None


def nowhere(_: Judged) -> Image.Image:
    """The finder of a report that was given no images."""
    raise FetchError("no images were given to this report: --images names their folder, --fetch asks their servers")


class Folder:
    """Finds images in a folder and those below it: by path, by name, or by the digest of their content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(path for path in folder.rglob("*") if is_file(path)):
            self._by_name[path.name].append(path)

    def __call__(self, judged: Judged) -> Image.Image:
        """The image that was judged.

        Raises:
            FetchError: it is not there, or a file of its name is another image.
            ImageError: it is no usable image.
        """
        named = list(self._named(judged.image or judged.id))
        wanted = judged.image_sha256
        if wanted is not None:
            found = next((path for path in named if image_digest(path) == wanted), None) or self._by_digest.get(wanted)
            if found is None and named:
                raise FetchError("the file of this name is another image now")
        else:
            found = named[0] if len(named) == 1 else None
            if found is None and named:
                raise FetchError(f"{len(named)} files have this name")
        if found is None:
            raise FetchError("not in the folder of images")
        return read_image(found).rgb

    def _named(self, image: str) -> Iterator[Path]:
        """Files whose path ends as `image` does; only files that were listed, whatever a stranger wrote there."""
        parts = Path(_path(image)).parts
        same = self._by_name.get(parts[-1], []) if parts else []
        whole = [path for path in same if path.relative_to(self._folder).parts == parts]
        yield from whole or same

    @cached_property
    def _by_digest(self) -> dict[str, Path]:
        paths = (path for same in self._by_name.values() for path in same)
        return {digest: path for path in paths if (digest := image_digest(path)) is not None}


def _path(image: str) -> str:
    """The path that a URL names on its server, or in its bucket, where it is taken literally; any other text is one."""
    scheme, is_url, rest = image.partition("://")
    if not is_url:
        return image
    path = rest.partition("/")[2]
    return path if scheme.lower() == "s3" else unquote(re.split("[?#]", path)[0])


def small(image: Image.Image, side: int) -> bytes:
    """The image as a WebP file whose longer side has at most `side` pixels."""
    copy = image.copy()
    copy.thumbnail((side, side))
    out = io.BytesIO()
    copy.save(out, "WEBP", quality=_QUALITY)
    return out.getvalue()
