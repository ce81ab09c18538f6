"""The folder of a training run, which says what the run was started with: only the same run goes on from it."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from m3agiqa.errors import CheckpointError, DataError, OutputError
from m3agiqa.inputs import read_bytes, read_text
from m3agiqa.outputs import alone, make_folder, write


def digest(*parts: str) -> str:
    """SHA-256 of several texts, in hexadecimal."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


class Run:
    """A folder with `settings.yaml`, `metrics.csv`, and `last.pt`, the state that the run goes on from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._settings = path / "settings.yaml"
        self._last = path / "last.pt"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder while the block runs.

        Raises:
            OutputError: another run works in it, or it cannot be written to.
        """
        make_folder(self.path)
        with alone(self.path):
            yield

    def check(self, identity: Mapping[str, Any], *, has_begun: bool, changeable: Collection[str] = ()) -> None:
        """Refuse to go on from another run.

        Args:
            identity: what this run is started with: data, weights and configuration, by digest or by value.
            has_begun: the folder holds work of a run; otherwise any run may begin in it.
            changeable: keys of `identity` that may differ.

        Raises:
            OutputError: the folder's run was started with something else, or does not say with what.
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
        """Write down what this run is started with."""
        write(self._settings, yaml.safe_dump(dict(identity), sort_keys=False, allow_unicode=True))

    def resume(self, identity: Mapping[str, Any], *, changeable: Collection[str] = ()) -> dict[str, Any] | None:
        """The state that was kept last; None if no run has begun here.

        Raises:
            OutputError: as `check`.
            CheckpointError: the state is damaged.
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
        """Keep the state that `resume` returns to a run that goes on."""
        write(self._last, saved(state))

    def keep_metrics(self, history: Sequence[Mapping[str, float | None]]) -> None:
        """Write `metrics.csv`: the numbers of each epoch or evaluation, whose names are the columns."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(dict.fromkeys(name for line in history for name in line)))
        writer.writeheader()
        writer.writerows(history)
        write(self.path / "metrics.csv", text.getvalue())

    def damaged(self) -> CheckpointError:
        return CheckpointError(f"{self._last} is damaged or does not fit: delete it to begin this run anew")


def saved(state: Mapping[str, Any]) -> bytes:
    """A torch file made in memory, so that `write` reports a full disk."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    return file.getvalue()
