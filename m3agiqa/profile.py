"""Model profiles, `cfg/models/*.yaml`: which weights, prompts and limits make up a model.

Prompts belong to the profile and not to the code, because the published adapters were trained on slightly other words
than the original's inference script uses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from m3agiqa import config
from m3agiqa.contract import Aspect
from m3agiqa.errors import ConfigError
from m3agiqa.paths import exists

#: Stands for a base, an adapter or a head with random weights at the published shapes.
RANDOM = "random"

_BUNDLED = "bundled:"
_PACKAGE = Path(__file__).resolve().parent

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class HubRef:
    """A repository on the hub. `revision` None means the main branch, until a lock pins a commit."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Describe(_Section):
    """How the model writes descriptions."""

    #: 1 is greedy search.
    num_beams: int = Field(default=3, ge=1, le=16)
    repetition_penalty: float = Field(default=1.2, gt=0)
    max_new_tokens: int = Field(default=1024, ge=1, le=4096)
    #: Most slices that an image is cut into, the overview not counted.
    max_slices: int = Field(default=9, ge=1, le=9)


class HubHead(_Section):
    """A head's checkpoint in a repository on the hub."""

    repo: str
    #: Path in the repository. A pattern with `*` must match exactly one file.
    file: str

    @field_validator("repo")
    @classmethod
    def _is_hub_id(cls, value: str) -> str:
        if not _HUB_ID.fullmatch(value):
            raise ValueError("must be a hub id like owner/name, with an optional @revision")
        return value

    def __str__(self) -> str:
        return f"{self.repo} {self.file}"


class AspectProfile(_Section):
    adapter: str
    head: HubHead | str
    #: Most slices in the scoring pass, the overview not counted.
    max_slices: int = Field(ge=1, le=9)
    #: Tokens of the scoring conversation that the head was trained on.
    context: int = Field(ge=16, le=4096)
    #: What the describing pass asks. Without {prompt} the aspect depends on the image alone, and no prompt can move it.
    analysis: str
    question: str

    @field_validator("analysis")
    @classmethod
    def _has_the_prompt(cls, value: str) -> str:
        if value.count("{prompt}") > 1 or re.search(r"[{}]", value.replace("{prompt}", "")):
            raise ValueError("must hold {prompt} at most once, where the generation prompt goes, and no other brace")
        return value


class ModelProfile(_Section):
    """One file of `cfg/models/`."""

    name: str
    base: str
    #: Precision of a GPU; a CPU always computes in float32.
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    #: float8 on a GPU: the language model's layers multiply in float8, and all else goes on in `dtype`. They are faster
    #: and take half the memory, and scores move (docs/performance.md).
    precision: Literal["float8"] | None = None
    #: Largest difference from the kept golden values, in points, that the start-up check accepts.
    tolerance: float = Field(default=0.02, gt=0, le=5)
    #: False for random weights; every verdict says so.
    trained: bool = True
    describe: Describe = Describe()
    aspects: dict[Aspect, AspectProfile] = Field(min_length=1)

    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _float8_beside_half(self) -> Self:
        if self.precision is not None and self.dtype == "float32":
            raise ValueError("`precision: float8` goes with a dtype of float16 or bfloat16")
        return self

    @model_validator(mode="after")
    def _random_throughout(self) -> Self:
        parts = [self.base, *(part for aspect in self.aspects.values() for part in (aspect.adapter, aspect.head))]
        if RANDOM in parts and (self.trained or any(part != RANDOM for part in parts)):
            raise ValueError("random weights go with `trained: false`, and base, adapters and heads are all `random`")
        return self

    @classmethod
    def load(cls, name: str) -> Self:
        """Load a profile by name or path. Relative folders in it are relative to its file.

        Raises:
            ConfigError: there is no such profile, or its file is wrong.
        """
        path = config.find("models", name)
        profile = config.load(path, cls)
        profile._folder = path.resolve().parent
        return profile

    @property
    def golden(self) -> Path:
        """The file of the start-up check's golden values, which need not exist."""
        return self._folder / "golden" / f"{self.name}.yaml"

    def source(self, reference: str) -> HubRef | Path:
        """Where `reference` (a base, an adapter, or a head's path or repository) points: to the hub or to this disk.

        `bundled:PATH` lies in this package.

        Raises:
            ConfigError: there is no such folder or file, and it is no hub id either.
        """
        bundled = reference.removeprefix(_BUNDLED)
        try:
            path = _PACKAGE / bundled if bundled != reference else self._folder / Path(reference).expanduser()
        except RuntimeError:
            raise ConfigError(f"profile {self.name}: {reference}: there is no home folder; set HOME") from None
        if exists(path):
            return path
        match = _HUB_ID.fullmatch(reference)
        if match is None or reference.startswith("."):
            raise ConfigError(
                f"profile {self.name}: {path} does not exist, and {reference!r} is no hub id (owner/name)"
            )
        return HubRef(match["repo"], match["revision"])
