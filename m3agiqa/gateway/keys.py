"""API keys: which tenant a key stands for. Only the SHA-256 of a key is kept; a key has 256 random bits, so that is
enough.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from m3agiqa import outputs
from m3agiqa.contract import describe_validation
from m3agiqa.errors import ConfigError
from m3agiqa.fields import Tenant

logger = logging.getLogger(__name__)

_FORM = "m3g_"
#: Seconds between two looks at whether the file has changed.
_LOOK_AGAIN_S = 1.0
#: Bytes of the file at most: some hundred thousand keys.
_MOST_BYTES = 64 * 2**20


class Key(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Tenant
    #: Of the whole key, in lower-case hexadecimal digits.
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    #: When it ends; None is never.
    expires_at: AwareDatetime | None = None


class KeyFile(BaseModel):
    """Every key. A tenant may have several, so that a new one can be there before the old one ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[Key, ...] = ()

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """Raises ConfigError if it cannot be read, or is no such file. The message shows nothing of it."""
        try:
            with path.open("rb") as file:
                return cls.model_validate_json(file.read(_MOST_BYTES))
        except OSError as error:
            raise ConfigError(f"cannot read the keys in {path}: {error.strerror}") from None
        except ValidationError as error:
            raise ConfigError(f"{path} is no file of keys: {describe_validation(error)}") from None


class Keyring:
    """The keys of a file, which is read again when it changes. A file that cannot be read leaves them as they are.

    Raises:
        ConfigError: as `KeyFile.read`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked_at = time.monotonic()
        self._seen = _stamp(path)
        self._by_digest = _by_digest(KeyFile.read(path))

    def tenant_of(self, key: str) -> str | None:
        """The tenant that a key stands for; None if it stands for none, or has ended."""
        if time.monotonic() - self._looked_at >= _LOOK_AGAIN_S:
            self._look_again()
        # What is compared is a digest, of which nobody can choose a prefix: how long it takes tells nothing of a key.
        found = self._by_digest.get(digest(key))
        if found is None or (found.expires_at is not None and found.expires_at <= datetime.now(UTC)):
            return None
        return found.tenant

    def _look_again(self) -> None:
        self._looked_at = time.monotonic()
        if (stamp := _stamp(self._path)) == self._seen:
            return
        self._seen = stamp
        try:
            self._by_digest = _by_digest(KeyFile.read(self._path))
        except ConfigError as error:
            logger.error("%s; the keys stay as they were", error)
        else:
            logger.info("read %d keys", len(self._by_digest))


def new(path: Path, tenant: str, expires_at: datetime | None = None) -> str:
    """Add a key of a tenant to a file, which is made if it is missing. Returns the key, which is kept nowhere.

    Raises:
        ConfigError: the file is no file of keys, or `tenant` no name of one.
        OutputError: the file cannot be written.
    """
    key = _FORM + secrets.token_urlsafe(32)
    try:
        added = Key(tenant=tenant, sha256=digest(key), expires_at=expires_at)
    except ValidationError as error:
        raise ConfigError(describe_validation(error)) from None
    with outputs.alone(path.parent):
        known = KeyFile.read(path).keys if path.exists() else ()
        kept = KeyFile(keys=(*known, added)).model_dump(mode="json", exclude_none=True)
        outputs.write(path, json.dumps(kept, indent=2) + "\n")
    return key


def digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _by_digest(file: KeyFile) -> dict[str, Key]:
    return {key.sha256: key for key in file.keys}


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does; None if it is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116  a link leads to a new file, as in a mounted secret
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
