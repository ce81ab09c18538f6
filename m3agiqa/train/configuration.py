"""What configurations of training have in common: files in `train/` of the operator's folder or the shipped one."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict

from m3agiqa import config


class Section(BaseModel):
    """A part of a configuration: frozen, without unknown keys and without infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Configuration(Section):
    """A whole file."""

    @classmethod
    def load(cls, name: str) -> Self:
        """Load a file of `train/` by name, or any by its path.

        Raises:
            ConfigError: no such file, or it is wrong.
        """
        return config.load(config.find("train", name), cls)
