"""Files that commands write, whatever kind of file a path names."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from m3agiqa import outputs
from m3agiqa.errors import OutputError

NAMES: list[tuple[Callable[[Path], Path], str]] = [
    (lambda folder: folder, "(it is a folder|Is a directory)"),
    (lambda folder: Path(), "(it is a folder|Is a directory)"),
    (lambda folder: Path("/"), "(it is a folder|Is a directory)"),
    (lambda folder: folder / "none" / "x", "No such file or directory"),
    (lambda folder: folder / ("x" * 300), "File name too long"),
    (lambda folder: folder / "file" / "x", "Not a directory"),
    (lambda folder: folder / "loop", "Too many levels of symbolic links"),
    (lambda folder: folder / "nul\0", "null"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("before")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path


@pytest.mark.parametrize(("place", "words"), NAMES)
def test_a_place_that_takes_no_file_is_said_before_and_after_the_work(
    folder: Path, place: Callable[[Path], Path], words: str
) -> None:
    before = sorted(folder.iterdir())
    for attempt in (outputs.check_writable, lambda path: outputs.write(path, "x")):
        with pytest.raises(OutputError, match=f"cannot write .*{words}"):
            attempt(place(folder))
    assert sorted(folder.iterdir()) == before


def test_what_is_read_is_not_written_over(folder: Path) -> None:
    link = folder / "link"
    link.symlink_to("file")

    with pytest.raises(OutputError, match="it is read as"):
        outputs.check_writable(link, folder / "none", folder / "file")

    outputs.check_writable(folder / "new", folder / "file")
    assert (folder / "file").read_text() == "before"


def test_a_file_keeps_its_mode_and_a_link_stays_a_link(folder: Path) -> None:
    # Given a link to a file that only its owner reads
    (folder / "file").chmod(0o600)
    link = folder / "link"
    link.symlink_to("file")

    # When something is written to it
    outputs.write(link, "größer\r\n")

    # Then the file behind it has it
    assert link.is_symlink()
    assert (folder / "file").read_bytes() == "größer\r\n".encode()
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o600


def test_a_new_file_has_the_mode_that_is_usual(folder: Path) -> None:
    before = os.umask(0o027)
    try:
        outputs.write(folder / "new", b"\0\xff")
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "new").stat().st_mode) == 0o640
    assert (folder / "new").read_bytes() == b"\0\xff"


def test_a_pipe_is_written_to_and_stays(folder: Path) -> None:
    # Given a pipe that somebody reads from, at last
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    outputs.check_writable(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()

    # When more is written than it holds
    outputs.write(pipe, "x" * 200_000)
    reader.join()

    # Then all came, and it is still a pipe
    assert got == ["x" * 200_000]
    assert pipe.is_fifo()


def test_a_pipe_that_nobody_reads_from_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "READER_S", 0.0)
    os.mkfifo(folder / "pipe")
    with pytest.raises(OutputError, match="nobody reads from it"):
        outputs.write(folder / "pipe", "x")


def test_devices_are_written_to() -> None:
    outputs.check_writable(Path("/dev/null"))
    outputs.write(Path("/dev/null"), "x")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OutputError, match="/dev/full: No space left on device"):
        outputs.write(Path("/dev/full"), "x")


def test_what_is_continued_must_be_a_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for path in (Path("/dev/null"), folder / "pipe"):
        with pytest.raises(OutputError, match="must be a file"):
            outputs.check_writable(path, kept=True)
    outputs.check_writable(folder / "file", kept=True)


@contextmanager
def no_room() -> Iterator[None]:
    """Files can have 100 bytes, within the block alone: a runner of tests writes files of its own."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_where_there_is_no_room_the_old_file_stays(folder: Path) -> None:
    before = sorted(folder.iterdir())

    with no_room(), pytest.raises(OutputError, match="file: File too large"):
        outputs.write(folder / "file", "x" * 200)
    with no_room(), pytest.raises(OutputError, match="what was done so far is kept, and the same command goes on"):
        outputs.append(folder / "growing", "x" * 200)

    assert (folder / "file").read_text() == "before"
    assert sorted(path for path in folder.iterdir() if path.name != "growing") == before


@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_a_library_that_finds_no_room_is_told_alike(folder: Path, library: str) -> None:
    def save() -> None:
        with no_room(), outputs.told_full_disk(folder):
            if library == "torch":
                torch.save(torch.zeros(1000), folder / "x.pt")
            else:
                save_file({"x": torch.zeros(1000)}, folder / "x.safetensors")

    with pytest.raises(OutputError, match=r"cannot write .*; what was done so far is kept"):
        save()
    with pytest.raises(RuntimeError, match="a defect"), outputs.told_full_disk(folder):
        raise RuntimeError("a defect")


def test_a_folder_is_made_or_said(folder: Path) -> None:
    outputs.make_folder(folder / "a" / "b")
    assert (folder / "a" / "b").is_dir()
    for path in (folder / "file", folder / "file" / "x", folder / ("x" * 300), folder / "loop"):
        with pytest.raises(OutputError, match="cannot write"):
            outputs.make_folder(path)


@pytest.mark.parametrize("name", ["file", "new", "."])
def test_one_writes_at_a_time(folder: Path, name: str) -> None:
    # Given another process that writes to a file or into a folder
    program = (
        "import sys; from pathlib import Path; from m3agiqa import outputs\n"
        "with outputs.alone(Path(sys.argv[1])): print('locked', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(folder / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"

    # When a second wants to, then it is refused, until the first has ended
    with pytest.raises(OutputError, match="another run writes to"), outputs.alone(folder / name):
        pass
    other.communicate("\n")
    with outputs.alone(folder / name):
        pass
    # And nothing of it is left
    assert sorted(path.name for path in folder.iterdir()) == ["file", "loop"]


def test_a_killed_run_leaves_nobody_locked_out(folder: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from m3agiqa import outputs\n"
        "with outputs.alone(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(folder / "new")], check=False)
    assert killed.returncode == -signal.SIGKILL

    with outputs.alone(folder / "new"):
        pass


def test_a_file_system_without_locks_is_no_obstacle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    ran = False
    with outputs.alone(folder / "new"):
        ran = True
    assert ran
    assert list(folder.glob(".m3agiqa-*.lock")) == []
