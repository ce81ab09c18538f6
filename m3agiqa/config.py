"""Where configuration files lie and how they are read: YAML, validated, unknown keys forbidden."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from m3agiqa.contract import describe_validation
from m3agiqa.errors import ConfigError
from m3agiqa.quoting import quoted

#: `cfg/` stands beside the package in a checkout and in an installed wheel alike.
CFG_DIR = Path(__file__).resolve().parent.parent / "cfg"

#: Characters of a path in a message.
_PATH_CHARS = 240

ModelT = TypeVar("ModelT", bound=BaseModel)


def find(kind: str, name: str) -> Path:
    """The file for `name`: a path to a YAML file, or a name under `cfg/<kind>/`.

    Raises:
        ConfigError: nothing there; lists the names there are.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CFG_DIR / kind / f"{name}.yaml"
    if not _is_file(path):
        known = ", ".join(names(kind))
        raise ConfigError(
            f"no {kind} file at {quoted(path, _PATH_CHARS)}; give a path ending in .yaml or one of: {known}"
        )
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long for any file
        return False


def names(kind: str) -> list[str]:
    return sorted(file.stem for file in (CFG_DIR / kind).glob("*.yaml"))


def load(path: Path, model: type[ModelT]) -> ModelT:
    """Read and validate one YAML file.

    Raises:
        ConfigError: unreadable, no YAML, an unknown key or a wrong value, with file and field.
    """
    try:
        return model.model_validate(yaml.safe_load(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_validation(error)}") from error
