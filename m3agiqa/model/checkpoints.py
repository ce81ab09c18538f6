"""Reads checkpoints from disk, a tensor at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open

from m3agiqa.errors import CheckpointError


class Tensors(Protocol):
    """Tensors by name, read when asked for."""

    def names(self) -> list[str]: ...

    def count(self, key: str) -> int:
        """How many numbers a tensor has; reads none of them."""
        ...

    def read(self, key: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor: ...


@dataclass(frozen=True)
class Watched:
    """Tensors that report how many numbers were read."""

    tensors: Tensors
    seen: Callable[[int], None]

    def names(self) -> list[str]:
        return self.tensors.names()

    def count(self, key: str) -> int:
        return self.tensors.count(key)

    def read(self, key: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        tensor = self.tensors.read(key, device, dtype)
        self.seen(tensor.numel())
        return tensor


class TensorFiles:
    """The tensors of one checkpoint by name: one safetensors file, several with an index, or a PyTorch file.

    Tensors are read when asked for, straight to the device, so that loading needs no second copy in host memory.
    """

    def __init__(self, files: Mapping[str, Path], pickled: Mapping[str, torch.Tensor] | None = None) -> None:
        self._files = files
        self._pickled = pickled or {}
        self._open: dict[Path, Any] = {}

    @classmethod
    def in_folder(cls, folder: Path, stem: str) -> Self:
        """Find `stem.safetensors`, `stem.safetensors.index.json` with its shards, or `stem.bin`.

        Raises:
            CheckpointError: none of them is there, a shard is missing, or a file is broken.
        """
        single, index, pickled = (
            folder / f"{stem}{ending}" for ending in (".safetensors", ".safetensors.index.json", ".bin")
        )
        if single.is_file():
            with _safetensors(single) as tensors:
                return cls(dict.fromkeys(tensors.keys(), single))
        if index.is_file():
            return cls(_shards(index))
        if pickled.is_file():
            return cls({}, _unpickle(pickled))
        raise CheckpointError(f"{folder} holds no {single.name}, {index.name} or {pickled.name}")

    def names(self) -> list[str]:
        return [*self._files, *self._pickled]

    def __contains__(self, key: str) -> bool:
        return key in self._files or key in self._pickled

    def read(self, key: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """One tensor, on `device` as `dtype`.

        Raises:
            CheckpointError: the checkpoint has no such tensor, or its file is broken.
        """
        if key in self._pickled:
            return self._pickled[key].to(device=device, dtype=dtype)
        with self._file(key) as file:
            tensor: torch.Tensor = file.get_tensor(key)
        return tensor.to(device=device, dtype=dtype)

    def count(self, key: str) -> int:
        """How many numbers a tensor has; raises as `read` does."""
        if key in self._pickled:
            return self._pickled[key].numel()
        with self._file(key) as file:
            return math.prod(file.get_slice(key).get_shape())

    @contextmanager
    def _file(self, key: str) -> Iterator[Any]:
        """The open file of a tensor."""
        if key not in self._files:
            raise CheckpointError(f"the checkpoint has no tensor {key}")
        path = self._files[key]
        try:
            if path not in self._open:
                self._open[path] = _safetensors(path).__enter__()
            yield self._open[path]
        except SafetensorError as error:
            raise CheckpointError(f"{path}, tensor {key}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A checkpoint's JSON file.

    Raises:
        CheckpointError: the file is missing or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def read_head(path: Path) -> dict[str, torch.Tensor]:
    """A head's tensors from a Lightning checkpoint or a safetensors file, the leading `model.` stripped.

    Raises:
        CheckpointError: the file is missing, broken, or not a head's.
    """
    if path.suffix == ".safetensors":
        with _safetensors(path) as tensors:
            state = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118 (no mapping)
    else:
        content = _unpickle(path)
        state = content.get("state_dict", content)
    state = {key.removeprefix("model."): tensor for key, tensor in state.items()}
    if missing := [key for key in ("W.weight", "W.bias", "fc.0.weight", "fc.2.weight") if key not in state]:
        raise CheckpointError(f"{path} is not a head's checkpoint: no {', '.join(missing)}")
    return state


def _safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _shards(index: Path) -> dict[str, Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has no weight_map")
    files = {key: index.parent / shard for key, shard in weight_map.items()}
    if missing := sorted({path.name for path in files.values() if not path.is_file()}):
        raise CheckpointError(f"{index.parent}: missing {', '.join(missing)}")
    return files


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except Exception as error:  # torch.load raises RuntimeError, UnpicklingError, EOFError and more on broken files
        raise CheckpointError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no dictionary of tensors")
    return content


class SharedTensors:
    """Keeps one copy of tensors that are equal in several checkpoints."""

    def __init__(self) -> None:
        self._known: dict[str, list[torch.Tensor]] = {}

    def share(self, key: str, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` itself, or an equal one already known under `key`."""
        versions = self._known.setdefault(key, [])
        for known in versions:
            if torch.equal(known, tensor):
                return known
        versions.append(tensor)
        return tensor

    def forget(self, key: str) -> None:
        self._known.pop(key, None)


def assign(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Give a module made on the meta device its tensors, without copying.

    Raises:
        CheckpointError: a tensor is missing, unknown, or has another shape.
    """
    try:
        module.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{name}: {' '.join(str(error).split())}") from error
    module.requires_grad_(False)
    module.eval()


def expect(keys: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse a checkpoint with tensors that nothing reads: it is not the one it should be.

    Raises:
        CheckpointError: there are such tensors; the message names some.
    """
    if unknown := sorted(set(keys) - set(known)):
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise CheckpointError(f"{where}: unknown tensors {', '.join(unknown[:3])}{more}")
