from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from m3agiqa.contract import Failure
from m3agiqa.errors import FetchError, RequestInvalid
from m3agiqa.files import find_image, read_image, read_job
from m3agiqa.paths import exists, is_file
from tests.support import ROOT


def looped(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


def piped(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "none.png", "No such file"),
        (lambda folder: folder, "not a file"),
        (lambda folder: folder / "", "not a file"),
        (lambda folder: folder / ("x" * 300), "name too long"),
        (lambda folder: folder / ("x/" * 3_000), "name too long"),
        (lambda folder: folder / "a\0b", "null"),
        (lambda folder: folder / os.fsdecode(b"\xd6\xd0\xce\xc4.webp"), r"\udcd6\udcd0"),
        (looped, "symbolic links"),
        (piped, "not a file"),
        (lambda folder: Path("/dev/zero"), "not a file"),
        (lambda folder: Path("https://host/a.png?secret=1"), "`m3agiqa-submit` takes https"),
        (lambda folder: Path("data:image/png;base64," + "A" * 5_000), "a data URL"),
    ],
)
def test_a_path_that_leads_to_no_image_is_a_failure_that_can_be_sent(tmp_path: Path, make: object, words: str) -> None:
    assert callable(make)

    with pytest.raises(FetchError) as caught:
        read_image(make(tmp_path))

    failure = Failure.from_error(caught.value)
    assert words.lower() in failure.message.lower()
    assert "secret" not in failure.message
    assert len(failure.message) < 400
    assert Failure.model_validate_json(failure.model_dump_json()) == failure


CLOSED = """
import os, sys
from pathlib import Path
from m3agiqa.errors import FetchError
from m3agiqa.files import find_image, read_image
from m3agiqa.paths import exists, is_file
folder = Path(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)
assert not exists(folder / "a.png") and not is_file(folder / "a.png")
try:
    read_image(find_image("a.png", folder))
except FetchError:
    pass
try:
    read_image(folder / "a.png")
except FetchError as error:
    sys.exit(str(error))
"""


def test_a_closed_folder_is_a_failure(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    Image.new("RGB", (8, 8)).save(closed / "a.png")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    closed.chmod(0)

    ended = subprocess.run(
        [sys.executable, "-c", CLOSED, str(closed)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    closed.chmod(0o755)

    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "Permission denied" in ended.stderr


def test_a_table_names_images_beside_it_or_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside").mkdir()
    for path in ("beside/both.png", "both.png", "here.png"):
        (tmp_path / path).touch()

    assert find_image("both.png", Path("beside")) == Path("beside/both.png")
    assert find_image("here.png", Path("beside")) == Path("here.png")
    assert find_image("x" * 300, Path("beside")) == Path("x" * 300)
    with pytest.raises(FetchError, match="empty"):
        find_image("", Path("beside"))


def test_a_prompt_that_is_no_text_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    with pytest.raises(RequestInvalid, match="UTF-8"):
        read_job(tmp_path / "a.png", os.fsdecode(b"caf\xe9"), None)


def test_questions_about_strange_paths_have_an_answer(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300), tmp_path / "a\0b", looped(tmp_path), tmp_path / "none"):
        assert not exists(path)
        assert not is_file(path)
    assert exists(tmp_path)
    assert not is_file(tmp_path)
