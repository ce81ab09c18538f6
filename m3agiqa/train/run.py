"""What a run was started with, so that nothing else goes on from what it has done.

A training keeps it in its folder. A file that grows keeps it row by row, for it may hold rows of several calls.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from m3agiqa.errors import CheckpointError, DataError, OutputError
from m3agiqa.inputs import read_bytes, read_text
from m3agiqa.outputs import alone, make_folder, write


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


class Run:
    """A folder of one training, its `settings.yaml`, and `last.pt`, the state it goes on from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._settings = path / "settings.yaml"
        self._last = path / "last.pt"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises: OutputError: another run works in this folder, or it cannot be written to."""
        make_folder(self.path)
        with alone(self.path):
            yield

    def check(self, identity: Mapping[str, Any], *, has_begun: bool, changeable: Collection[str] = ()) -> None:
        """Refuse to go on from another run; a folder in which nothing was done yet is anybody's.

        Args:
            identity: what this run is started with: data, weights and configuration, by digest or by value.
            has_begun: there is something to go on from.
            changeable: keys that may differ.

        Raises:
            OutputError: what stands here was started with something else, or nobody knows with what.
        """
        if not has_begun:
            return
        known = None
        if self._settings.exists():
            try:
                known = yaml.safe_load(read_text(self._settings))
            except (DataError, yaml.YAMLError, ValueError, RecursionError):
                known = None
        if not isinstance(known, dict):
            raise OutputError(
                f"{self.path} holds a run, but {self._settings.name} does not say of what: delete the folder to begin "
                "anew, or name another"
            )
        if other := [key for key in identity if key not in changeable and known.get(key) != identity[key]]:
            raise OutputError(f"{self.path} holds a run with another {', '.join(other)}; name another folder")

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Say what is done here, now that it is done."""
        write(self._settings, yaml.safe_dump(dict(identity), sort_keys=False, allow_unicode=True))

    def resume(self, identity: Mapping[str, Any], *, changeable: Collection[str] = ()) -> dict[str, Any] | None:
        """The state that was kept last, None if nothing was done here yet.

        Raises:
            OutputError: as `check`.
            CheckpointError: it is damaged.
        """
        self.check(identity, has_begun=self._last.exists(), changeable=changeable)
        if not self._last.exists():
            return None
        try:
            state = torch.load(io.BytesIO(read_bytes(self._last)), map_location="cpu", weights_only=True)
            if isinstance(state, dict) and state["history"]:
                return state
        except Exception as error:  # whatever a torn file looks like
            raise self.damaged() from error
        raise self.damaged()

    def keep(self, state: Mapping[str, Any]) -> None:
        """Keep what `resume` gives to a run that goes on."""
        write(self._last, saved(state))

    def damaged(self) -> CheckpointError:
        return CheckpointError(f"{self._last} is damaged or does not fit: delete it to begin this run anew")


def saved(state: Mapping[str, Any]) -> bytes:
    """A file of torch's, made in memory: written in one go, a full disk is told like any other."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    return file.getvalue()
