"""Knows which files a part of a model consists of, by the same rules on the hub and on this disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from m3agiqa.errors import CheckpointError

_INDEX = "model.safetensors.index.json"
#: Bytes of a sample; the fingerprint of a large file takes `_SAMPLES` of them.
_SAMPLE = 2**16
_SAMPLES = 64


@dataclass(frozen=True)
class Folder:
    """A folder of checkpoint files, on the hub or on this disk."""

    #: How error messages name the folder.
    where: str
    names: Collection[str]
    #: Brings one of `names` to this disk.
    open: Callable[[str], Path]
    #: Error for a file that is missing.
    error: type[CheckpointError] = CheckpointError

    @classmethod
    def local(cls, path: Path) -> Folder:
        """A folder on this disk.

        Raises:
            CheckpointError: `path` is no folder, or cannot be read.
        """
        try:
            return cls(str(path), {file.name for file in path.iterdir()}, lambda name: path / name)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from error

    def require(self, *alternatives: str) -> str:
        """The first of `alternatives` in this folder; raises `error` if it has none of them."""
        for name in alternatives:
            if name in self.names:
                return name
        raise self.error(f"{self.where} has no {' or '.join(alternatives)}")

    def present(self, *names: str) -> list[str]:
        return [name for name in names if name in self.names]


def base_files(folder: Folder) -> list[str]:
    """Configuration, tokenizer and weights of a base model. A sharded model has exactly the shards of its index."""
    names = [
        folder.require("config.json"),
        folder.require("tokenizer.json"),
        *folder.present("tokenizer_config.json", "generation_config.json", "preprocessor_config.json"),
    ]
    weights = folder.require("model.safetensors", _INDEX)
    if weights != _INDEX:
        return [*names, weights]
    try:
        index = json.loads(folder.open(_INDEX).read_bytes())
        shards = sorted({str(shard) for shard in index["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise folder.error(f"{folder.where}: {_INDEX} is no index of weights ({type(error).__name__})") from error
    return [*names, weights, *(folder.require(shard) for shard in shards)]


def adapter_files(folder: Folder) -> list[str]:
    return [
        folder.require("adapter_config.json"),
        folder.require("adapter_model.safetensors", "adapter_model.bin"),
    ]


def head_file(folder: Folder, wanted: str) -> list[str]:
    """The checkpoint called `wanted`, or the only one that matches a `wanted` with `*` in it."""
    matching = [
        name for name in sorted(folder.names) if name == wanted or ("*" in wanted and fnmatchcase(name, wanted))
    ]
    if len(matching) == 1:
        return matching
    there = ", ".join(name for name in sorted(folder.names) if name.endswith(".ckpt")) or "none"
    count = "no file" if not matching else f"{len(matching)} files"
    raise folder.error(f"{folder.where} has {count} matching {wanted}; its checkpoints: {there}")


def fingerprint(paths: Iterable[Path]) -> str:
    """`local:` and 16 hex digits of a hash over names, sizes and evenly spread samples of content.

    It tells checkpoints apart in verdicts without reading 17 GB at every start. It is no checksum: it can miss a
    changed byte in a large file.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                if size <= 2 * _SAMPLE * _SAMPLES:
                    digest.update(file.read())
                    continue
                for number in range(_SAMPLES):
                    file.seek(number * (size - _SAMPLE) // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE))
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from error
    return f"local:{digest.hexdigest()[:16]}"
