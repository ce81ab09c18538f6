"""Hidden states on disk, so that the frozen model reads each image once, and not in every epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from m3agiqa.errors import CheckpointError, OutputError
from m3agiqa.outputs import make_folder, write


class StateCache:
    """Hidden states of conversations, by name.

    Args:
        folder: where they lie; caches with other keys may share it.
        key: all that the states depend on beside the image: weights, prompts and limits.
        max_bytes: limit of all files in `folder` together.

    Raises:
        OutputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, key: Mapping[str, object], max_bytes: float) -> None:
        text = json.dumps(key, sort_keys=True, indent=1, default=str)
        self._folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        make_folder(self._folder)
        write(self._folder / "key.json", text + "\n")
        self._max_bytes = max_bytes
        self._bytes = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))

    def __contains__(self, name: str) -> bool:
        """Whether the states are there and undamaged; this reads them."""
        try:
            self.read(name)
        except CheckpointError:
            return False
        return True

    def read(self, name: str) -> torch.Tensor:
        """States [tokens, hidden], float16 or bfloat16.

        Raises:
            CheckpointError: they are missing or damaged.
        """
        path = self._path(name)
        try:
            with safe_open(path, framework="pt") as file:
                states: torch.Tensor = file.get_tensor("states")
                if (file.metadata() or {}).get("sha256") == _digest(states):
                    return states
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is missing or damaged: run again to make it anew") from error
        raise CheckpointError(f"{path} is damaged: run again to make it anew")

    def write(self, name: str, states: torch.Tensor) -> None:
        """Keep states [tokens, hidden]; float32 is rounded to float16.

        Raises:
            OutputError: the cache would grow beyond its limit, or the disk has no room.
        """
        states = states.detach().to("cpu", torch.float16 if states.dtype == torch.float32 else states.dtype)
        # Cloned, for safetensors does not accept tensors of inference mode.
        states = states.clone().contiguous()
        if self._bytes + states.nbytes > self._max_bytes:
            raise OutputError(
                f"{self._folder.parent} would grow beyond {self._max_bytes / 1e9:.3g} GB; raise cache_gb, or delete "
                "old folders in it"
            )
        write(self._path(name), save({"states": states}, metadata={"sha256": _digest(states)}))
        self._bytes += states.nbytes

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"


def _digest(states: torch.Tensor) -> str:
    return hashlib.sha256(states.view(torch.uint8).numpy().data).hexdigest()
