"""Finds and reads configuration files: YAML that is validated and holds no unknown keys."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from m3agiqa.contract import describe_validation
from m3agiqa.errors import ConfigError, DataError
from m3agiqa.inputs import read_bytes
from m3agiqa.paths import is_file
from m3agiqa.quoting import PATH_CHARS, quoted

#: The environment variable that names the operator's folder, with `models/`, `policies/` or `train/` in it.
OWN_DIR = "M3AGIQA_CONFIG_DIR"

_PACKAGE = Path(__file__).resolve().parent
#: The shipped folder: inside the package once installed, beside it in a checkout.
SHIPPED_DIR = _PACKAGE / "cfg" if (_PACKAGE / "cfg").is_dir() else _PACKAGE.parent / "cfg"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

ModelT = TypeVar("ModelT", bound=BaseModel)


def find(kind: str, name: str) -> Path:
    """The file that `name` means: a path that ends in .yaml, or a name as `named` takes it.

    Raises:
        ConfigError: there is no such file; the message lists the names that exist.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else named(kind, name)
    if path is None or not is_file(path):
        known = ", ".join(names(kind))
        raise ConfigError(f"no {kind} file {quoted(name, PATH_CHARS)}; give a path ending in .yaml or one of: {known}")
    return path


def named(kind: str, name: str) -> Path | None:
    """The file `<kind>/<name>.yaml` in the operator's folder or else in the shipped one; None if neither has it.

    Raises:
        ConfigError: M3AGIQA_CONFIG_DIR names no folder.
    """
    if not _NAME.fullmatch(name):
        return None
    return next((path for folder in _folders() if is_file(path := folder / kind / f"{name}.yaml")), None)


def names(kind: str) -> list[str]:
    """Raises: ConfigError: M3AGIQA_CONFIG_DIR names no folder."""
    return sorted({file.stem for folder in _folders() for file in (folder / kind).glob("*.yaml")})


def _folders() -> list[Path]:
    own = os.environ.get(OWN_DIR)
    if not own:
        return [SHIPPED_DIR]
    folder = Path(own)
    try:
        if folder.is_dir():
            return [folder, SHIPPED_DIR]
    except OSError:
        pass
    raise ConfigError(f"{OWN_DIR}={quoted(own, PATH_CHARS)} is no folder; make it, with policies/ or models/ in it")


def load(path: Path, model: type[ModelT]) -> ModelT:
    """Read and validate one YAML file.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or has an unknown key or a wrong value; the message names file
            and field.
    """
    import yaml  # not at the top: producers ask for names, and do without it

    try:
        return model.model_validate(yaml.safe_load(read_bytes(path)))
    except DataError as error:
        raise ConfigError(str(error)) from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_validation(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that does not exist is a ValueError
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
