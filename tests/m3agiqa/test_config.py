"""Finding and reading configuration files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from m3agiqa import config
from m3agiqa.errors import ConfigError


class Room(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    doors: int = 1


def test_a_file_is_read_and_validated(tmp_path: Path) -> None:
    file = tmp_path / "room.yaml"
    file.write_text("name: größer\ndoors: 2\n", encoding="utf-8")
    assert config.load(file, Room) == Room(name="größer", doors=2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: x\nwindows: 3\n", "windows: Extra inputs"),
        (b"doors: 2\n", "name: Field required"),
        (b"name: x\ndoors: many-secret\n", "doors: Input should be a valid integer"),
        (b"", "Input should be a valid dictionary"),
        (b"- a\n", "Input should be a valid dictionary"),
        (b"name: [", "not valid YAML"),
        (b"name: !!python/object/apply:os.system [echo]", "not valid YAML"),
        (b"name: \xff\xfe", "not valid YAML"),
        (b"name: x\ndoors: 2020-13-45\n", "not valid YAML: month must be in 1..12"),
        (b"name: x\ndoors: 2020-12-24\n", "doors: Input should be a valid integer"),
        (b"name: x\ndoors: " + b"9" * 5_000, "not valid YAML"),
        (b"name: " + b"[" * 100_000, "not valid YAML"),
    ],
)
def test_a_wrong_file_and_field_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "room.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        config.load(file, Room)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert "many-secret" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.load(tmp_path / "none.yaml", Room)


def test_a_name_or_a_path(tmp_path: Path) -> None:
    assert config.find("policies", "default") == config.SHIPPED_DIR / "policies" / "default.yaml"
    own = tmp_path / "own.yaml"
    own.write_text("")
    assert config.find("policies", str(own)) == own


@pytest.mark.parametrize("name", ["x" * 5_000, "x" * 100_000 + ".yaml", "\u202e\x1b[2J", "a\0b"])
def test_a_name_that_no_file_has_fills_no_message(name: str) -> None:
    with pytest.raises(ConfigError, match=r"one of: default, observe$") as caught:
        config.find("policies", name)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["none", "../policies/none", "/etc/passwd", "none.yaml", ""])
def test_a_name_that_is_not_there_lists_those_that_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"one of: default, observe"):
        config.find("policies", name)


def test_names_are_sorted() -> None:
    assert config.names("policies") == ["default", "observe"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's folder, with a new policy and one named like a shipped one."""
    folder = tmp_path / "policies"
    folder.mkdir()
    for name in ("default", "gallery"):
        (folder / f"{name}.yaml").write_text("")
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", str(tmp_path))
    return folder


def test_the_operators_folder_is_looked_into_first(own: Path) -> None:
    assert config.find("policies", "default") == own / "default.yaml"
    assert config.find("policies", "gallery") == own / "gallery.yaml"
    assert config.find("policies", "observe") == config.SHIPPED_DIR / "policies" / "observe.yaml"
    assert config.find("models", "mini") == config.SHIPPED_DIR / "models" / "mini.yaml"
    assert config.names("policies") == ["default", "gallery", "observe"]


@pytest.mark.parametrize("name", ["../policies/default", "policies/default", ".", "..", "", "default\n"])
def test_a_name_leads_nowhere_else(own: Path, name: str) -> None:
    assert config.named("policies", name) is None


def test_a_missing_operators_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (tmp_path / "none", tmp_path / ("x" * 300)):
        monkeypatch.setenv("M3AGIQA_CONFIG_DIR", str(wrong))
        with pytest.raises(ConfigError, match=r"M3AGIQA_CONFIG_DIR=.* is no folder"):
            config.find("policies", "default")
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", "")
    assert config.find("policies", "default").is_relative_to(config.SHIPPED_DIR)
