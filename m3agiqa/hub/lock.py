"""Remembers what a profile's hub references were resolved to, so that tomorrow's scores come from the same weights."""

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
from m3agiqa.errors import CheckpointError, DataError, OutputError
from m3agiqa.inputs import read_bytes
from m3agiqa.outputs import make_folder, write

_ELSEWHERE = "set XDG_CACHE_HOME to a folder that can be written to"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RemoteFile(_Record):
    #: Bytes of the file.
    size: int = Field(ge=0)
    #: The hub's digest: the SHA-256 of a large file (64 hex digits), the git blob id of another (40), "" if unknown.
    digest: str

    def matches(self, path: Path) -> bool:
        """Whether the file at `path`, all of which is read, has this content."""
        if path.stat().st_size != self.size:
            return False
        hashing = hashlib.sha256() if len(self.digest) == 64 else hashlib.sha1(f"blob {self.size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                hashing.update(chunk)
        return self.digest in ("", hashing.hexdigest())


class LockedPart(_Record):
    repo: str
    #: Branch, tag or commit that the profile names; None is the main branch.
    requested: str | None
    commit: str = Field(pattern="^[0-9a-f]{40}$")
    files: dict[str, RemoteFile]


class Lock(_Record):
    profile: str
    #: What each part ("base", "adapter.quality", "head.quality", ...) was resolved to.
    parts: dict[str, LockedPart]

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The lock at `path`, None if there is none.

        Raises:
            CheckpointError: it cannot be read, or is no lock.
        """
        try:
            return cls.model_validate_json(read_bytes(path))
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise CheckpointError(f"lock {error}; {_ELSEWHERE}") from error
        except ValidationError as error:
            raise CheckpointError(f"lock {path} is damaged: delete it ({describe_validation(error)})") from None

    def write(self, path: Path) -> None:
        """Write the lock to `path`, whole or not at all.

        Raises:
            CheckpointError: `path` cannot be written.
        """
        make_room_for(path)
        try:
            write(path, self.model_dump_json(indent=2) + "\n")
        except OutputError as error:
            raise CheckpointError(f"{error}; {_ELSEWHERE}") from error


def make_room_for(path: Path) -> None:
    """Make the lock's folder, which shows before a download whether a lock can be written.

    Raises:
        CheckpointError: the folder cannot be made.
    """
    try:
        make_folder(path.parent)
    except OutputError as error:
        raise CheckpointError(f"{error}; {_ELSEWHERE}") from error


def lock_path(profile: str, references: Mapping[str, str]) -> Path:
    """The path of the lock for these references, in `$XDG_CACHE_HOME/m3agiqa/locks` (`~/.cache/...`).

    `references` maps each part to what the profile names for it. A hash of them is in the path, so that a lock of other
    references is never used.

    Raises:
        CheckpointError: there is neither XDG_CACHE_HOME nor a home folder.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:
        raise CheckpointError(f"there is no home folder: {_ELSEWHERE}") from None
    digest = hashlib.sha256(json.dumps(references, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", profile)
    return cache / "m3agiqa" / "locks" / f"{name}-{digest}.json"
