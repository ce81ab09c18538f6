"""Makes a request of a row: checked, with an id that is the same each time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3agiqa.client import refuse_unknown_policy
from m3agiqa.client.images import bytes_of, is_data_url
from m3agiqa.contract import ScoreRequest
from m3agiqa.errors import RequestInvalid
from m3agiqa.fields import INLINE_SCHEME
from producers.bulk.rows import IMAGE, IMAGE_PATH, Row

#: Bytes of a file: what workers fetch at most, unless told otherwise.
_FILE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Prepared:
    """A row that can be submitted."""

    row: Row
    #: Names a digest of `image` where there is one.
    request: ScoreRequest
    image: bytes | None
    #: Whether its id is made of its content, so that what stands under it is this very request.
    is_named_by_content: bool

    def to_submit(self) -> ScoreRequest | Mapping[str, Any]:
        """What a client takes."""
        if self.image is None:
            return self.request
        return {**self.request.model_dump(exclude={"image_url"}, exclude_none=True), "image": self.image}


def prepared(row: Row, defaults: Mapping[str, Any], folder: Path | None) -> Prepared:
    """The request of a row, whose own fields go before `defaults`. A file that it names lies in `folder` or below.

    Raises:
        RequestInvalid: something in it is wrong; says what.
    """
    if row.error is not None:
        raise RequestInvalid(row.error)
    fields = {**defaults, **{name: value for name, value in row.fields.items() if value is not None}}
    given = [name for name in ("image_url", IMAGE_PATH, IMAGE) if name in fields]
    if len(given) > 1:
        raise RequestInvalid(f"{' and '.join(given)}: one of them names the image")
    image = _image(fields, folder)
    if image is not None:
        fields["image_url"] = f"{INLINE_SCHEME}{hashlib.sha256(image).hexdigest()}"
    is_named = "request_id" in fields
    request = ScoreRequest.parse({"request_id": "row", **fields})
    refuse_unknown_policy(request)
    if not is_named:
        request = request.model_copy(update={"request_id": f"row-{request.fingerprint}"})
    return Prepared(row, request, image, not is_named)


def _image(fields: dict[str, Any], folder: Path | None) -> bytes | None:
    """Take what is an image as bytes, or names a file, out of `fields`, and read it."""
    if is_data_url(fields.get("image_url")):
        return bytes_of(fields.pop("image_url"))
    if IMAGE in fields:
        return bytes_of(fields.pop(IMAGE))
    if IMAGE_PATH in fields:
        return bytes_of(_file(fields.pop(IMAGE_PATH), folder))
    return None


def _file(name: object, folder: Path | None) -> Path:
    """The file of this name, which may come from a stranger: it leads to nothing outside of the table's folder."""
    if not isinstance(name, str) or folder is None:
        raise RequestInvalid(f"{IMAGE_PATH}: must name a file beside the table")
    try:
        path, top = (folder / name).resolve(), folder.resolve()
        size = path.stat().st_size if path.is_file() else 0
    except (OSError, ValueError) as error:
        raise RequestInvalid(f"{IMAGE_PATH}: cannot be read ({type(error).__name__})") from None
    if not path.is_relative_to(top):
        raise RequestInvalid(f"{IMAGE_PATH}: leads out of the table's folder")
    if size > _FILE_BYTES:
        raise RequestInvalid(f"{IMAGE_PATH}: {size} bytes are more than {_FILE_BYTES}")
    return path
