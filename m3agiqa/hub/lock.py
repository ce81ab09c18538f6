"""What a profile's hub references were resolved to, kept so that tomorrow's scores come from the same weights."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from m3agiqa.contract import describe_validation
from m3agiqa.errors import CheckpointError, DataError
from m3agiqa.outputs import make_folder, write

_MOVED = "set XDG_CACHE_HOME to a folder that can be written to"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RemoteFile(_Record):
    #: Bytes of the file.
    size: int = Field(ge=0)
    #: The hub's own: 64 hex digits are the SHA-256 of the content (large files), 40 its git blob id; "" if unknown.
    digest: str

    def matches(self, path: Path) -> bool:
        """Whether the file at `path` has this content. Reads all of it."""
        if path.stat().st_size != self.size:
            return False
        hashing = hashlib.sha256() if len(self.digest) == 64 else hashlib.sha1(f"blob {self.size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                hashing.update(chunk)
        return self.digest in ("", hashing.hexdigest())


class LockedPart(_Record):
    repo: str
    #: Branch, tag or commit the profile names; None is the main branch.
    requested: str | None
    commit: str = Field(pattern="^[0-9a-f]{40}$")
    files: dict[str, RemoteFile]


class Lock(_Record):
    profile: str
    #: Part ("base", "adapter.quality", "head.quality", ...) to what it was resolved to.
    parts: dict[str, LockedPart]

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The lock at `path`, or None where there is none.

        Raises:
            CheckpointError: it cannot be read, or is no lock.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CheckpointError(f"lock {path}: {error.strerror}; {_MOVED}") from error
        except ValidationError as error:
            raise CheckpointError(f"lock {path} is damaged: delete it ({describe_validation(error)})") from None

    def write(self, path: Path) -> None:
        """Write to `path` at once or not at all.

        Raises:
            CheckpointError: the place cannot be written to.
        """
        check_place(path)
        try:
            write(path, self.model_dump_json(indent=2) + "\n")
        except DataError as error:
            raise CheckpointError(f"{error}; {_MOVED}") from error


def check_place(path: Path) -> None:
    """Find out before a download that a lock can be written.

    Raises:
        CheckpointError: it cannot.
    """
    try:
        make_folder(path.parent)
    except DataError as error:
        raise CheckpointError(f"{error}; {_MOVED}") from error


def lock_path(profile: str, references: Mapping[str, str]) -> Path:
    """Where the lock for these references lies: `$XDG_CACHE_HOME/m3agiqa/locks` (`~/.cache/...`).

    `references` maps parts to what the profile names for them; they are hashed into the name, so that a lock of other
    references is never picked up.

    Raises:
        CheckpointError: neither XDG_CACHE_HOME nor a home folder is known.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # nobody knows where
        raise CheckpointError(f"there is no home folder: {_MOVED}") from None
    digest = hashlib.sha256(json.dumps(references, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", profile)
    return cache / "m3agiqa" / "locks" / f"{name}-{digest}.json"
