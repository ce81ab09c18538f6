from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from m3agiqa import inputs
from m3agiqa.errors import DataError


def test_a_file_and_a_pipe_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("\ufeffgrün".encode())
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("x" * 200_000))
    writer.start()

    assert inputs.read_text(tmp_path / "file") == "grün"
    assert inputs.read_text(tmp_path / "pipe") == "x" * 200_000
    writer.join()


def test_what_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "WRITER_S", 0.0)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "latin").write_bytes("eins\nzwei grün".encode("latin-1"))
    for path, words in {
        tmp_path / "none": "none: No such file",
        tmp_path: "Is a directory",
        tmp_path / "pipe": "pipe: a pipe that nobody writes to",
        tmp_path / "loop": "Too many levels",
        tmp_path / "latin": "latin, line 2: not UTF-8",
        tmp_path / ("x" * 300): "File name too long",
        Path("/dev/zero"): "a device, and not a file",
    }.items():
        with pytest.raises(DataError, match=words):
            inputs.read_text(path)
