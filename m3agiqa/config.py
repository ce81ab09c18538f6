"""Finds and reads configuration files: YAML that is validated and holds no unknown keys."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from m3agiqa.contract import describe_validation
from m3agiqa.errors import ConfigError, DataError
from m3agiqa.inputs import read_bytes
from m3agiqa.paths import is_file
from m3agiqa.quoting import PATH_CHARS, quoted

logger = logging.getLogger(__name__)

#: The environment variable that names the operator's folder, with `models/`, `policies/`, `tenants/` or `train/` in it.
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


#: Changes when a file's content does: nanoseconds of its last change, bytes, inode. None if the file is gone.
_Stamp = tuple[int, int, int] | None


class Files(Generic[ModelT]):
    """What files say, as `read` reads each; a file is read again when it has changed. Threads may share it.

    If a file becomes wrong, its last content stays in force, and the log says why.
    """

    def __init__(self, read: Callable[[Path], ModelT]) -> None:
        self._read = read
        self._lock = threading.Lock()
        #: The state of a file, and what it says; None if it never was right.
        self._known: dict[Path, tuple[_Stamp, ModelT | None]] = {}

    def current(self, path: Path) -> ModelT | None:
        """What a file says; None if it is wrong, and always was."""
        stamp = _stamp(path)
        with self._lock:
            known_at, known = self._known.get(path, (None, None))
            if path not in self._known or known_at != stamp:
                known = self._anew(path, known)
                self._known[path] = stamp, known
        return known

    def _anew(self, path: Path, known: ModelT | None) -> ModelT | None:
        try:
            return self._read(path)
        except ConfigError as error:
            logger.error("%s; %s", error, "its last content stays in force" if known else "it is not used")
            return known


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
