"""What was submitted, from a file of whoever did: a verdict alone does not say where its image lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from m3agiqa import jsonl
from m3agiqa.contract import describe_validation
from m3agiqa.errors import DataError
from m3agiqa.fields import ImageUrl, RequestId, S3Uri, Tenant, WebUrl, name_of
from m3agiqa.tables import open_table


class Submitted(BaseModel):
    """The part of a request that its verdict may lack."""

    # Its other fields are of no use here.
    model_config = ConfigDict(frozen=True, extra="ignore")

    request_id: RequestId
    tenant: Tenant | None = None
    image_url: ImageUrl | None = None
    prompt: str | None = None
    callback_url: WebUrl | None = None
    s3_uri: S3Uri | None = None

    @field_validator("tenant", "image_url", "callback_url", "s3_uri", mode="before")
    @classmethod
    def _nothing(cls, value: object) -> object:
        return None if value == "" else value  # an empty cell


def read(path: Path) -> dict[str, Submitted]:
    """Requests by their names. A file whose name ends in .csv is a table as `m3agiqa-submit csv` takes it, with
    `request_id`; any other file holds requests as JSON, one on each line or in a list.

    Raises:
        DataError: the file is unreadable, or something in it is no request; says where.
    """
    items = _rows(path) if path.suffix.lower() == ".csv" else jsonl.stream(path)
    found = (_parsed(where, item) for where, item in items)
    return {name_of(request.tenant, request.request_id): request for request in found}


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    with open_table(path, ("request_id",)) as table:
        for row in table:
            where = f"{table}, line {row.line}"
            if row.error is not None:
                raise DataError(f"{where}: {row.error}")
            yield where, row.values


def _parsed(where: str, item: Mapping[str, object]) -> Submitted:
    try:
        return Submitted.model_validate(item)
    except ValidationError as error:
        raise DataError(f"{where}: no request with an id: {describe_validation(error)}") from None
