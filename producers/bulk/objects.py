"""Images below a prefix in S3, with what stands in a file of the same name beside each."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from m3agiqa import jsonl
from m3agiqa.chunks import chunks
from m3agiqa.client.bucket import s3_client
from m3agiqa.contract import MAX_PROMPT_CHARS
from m3agiqa.errors import DataError, UsageError
from producers.bulk.rows import IMAGE, IMAGE_PATH, Row, Rows

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif")
#: Files that say what an image was generated from, the first that is there.
_BESIDE = (".json", ".txt")
#: Bytes of such a file: metadata and a prompt at their largest, as JSON that escapes every character.
_BESIDE_BYTES = 65_536 + 12 * MAX_PROMPT_CHARS
#: Files that are read at a time.
_AT_ONCE = 16


def listed(place: str) -> Rows:
    """Images below `s3://bucket/prefix`, in the order of their keys, which are all listed first.

    Raises:
        UsageError: this names no bucket.
        ConfigError: boto3 is missing, or the AWS tools' variables are wrong.
        DataError: the bucket cannot be listed; also while rows are read, if it cannot be reached.
    """
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    s3 = s3_client()
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    try:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    except ParamValidationError:
        raise UsageError(f"{place}: this names no bucket") from None
    except ClientError as error:
        raise DataError(f"s3://{bucket} answered {error.response['Error']['Code']}") from None
    except BotoCoreError as error:
        raise DataError(f"s3://{bucket} cannot be listed ({type(error).__name__})") from None
    images = [key for key in keys if key.lower().endswith(_IMAGES)]
    beside = {key for key in keys if key.endswith(_BESIDE)}
    return Rows(_rows(partial(_row, s3, bucket, beside), images), len(images))


def _rows(row: Any, images: list[str]) -> Iterator[Row]:
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for some in chunks(enumerate(images, 1), 10 * _AT_ONCE):
            yield from threads.map(row, some)


def _row(s3: Any, bucket: str, beside: set[str], image: tuple[int, str]) -> Row:
    at, key = image
    where = f"s3://{bucket}/{key}"
    name = key.rpartition(".")[0]
    found = next((name + ending for ending in _BESIDE if name + ending in beside), None)
    try:
        fields = {} if found is None else _fields(s3, bucket, found)
    except DataError as error:
        return Row(where, at, error=f"{found}: {error}")
    if named := {"image_url", IMAGE_PATH, IMAGE} & fields.keys():
        return Row(where, at, fields, f"{found}: it names an image itself, as {', '.join(sorted(named))}")
    return Row(where, at, {**fields, "image_url": where})


def _fields(s3: Any, bucket: str, key: str) -> dict[str, Any]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        with s3.get_object(Bucket=bucket, Key=key)["Body"] as body:
            data = body.read(_BESIDE_BYTES + 1)
    except ClientError as error:
        raise DataError(f"the bucket answered {error.response['Error']['Code']}") from None
    except BotoCoreError as error:
        raise DataError(f"it cannot be read ({type(error).__name__})") from None
    if len(data) > _BESIDE_BYTES:
        raise DataError(f"it has more than {_BESIDE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("it is not in UTF-8") from None
    if key.endswith(".txt"):
        return {"prompt": text.strip()}
    fields = jsonl.loads(text)
    if not isinstance(fields, dict):
        raise DataError("not a JSON object")
    return fields
