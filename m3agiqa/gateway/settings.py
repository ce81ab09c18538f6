"""Every setting of the gateway, read from the environment. It finds Redis and a bucket where every client does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from m3agiqa import environment
from m3agiqa.client import MAX_QUEUED
from m3agiqa.contract import describe_validation
from m3agiqa.errors import ConfigError
from m3agiqa.queue import images

PREFIX = "M3AGIQA_GATEWAY_"
KEYS_FILE = PREFIX + "KEYS_FILE"

_SECONDS, _COUNT = 86_400, 1_000_000


class Settings(BaseSettings):
    """One field per environment variable, `M3AGIQA_GATEWAY_` in front of its name in capitals. Limits are those of one
    process.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True, allow_inf_nan=False)

    keys_file: Path = Field(
        description="File with the API keys, which `keys new` writes. It is read again when it changes."
    )
    listen: str = Field(
        default="127.0.0.1:8080",
        pattern=r"^(\[[0-9a-f:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$",
        description="Address and port to listen at. TLS is a proxy's task.",
    )
    processes: int = Field(
        default=1, ge=1, le=256, description="Processes that share the port; each has limits of its own."
    )
    tenants: Literal["any", "listed"] = Field(
        default="any", description="Tenants that are served, as M3AGIQA_TENANTS of the workers has it."
    )
    max_queued: int = Field(
        default=MAX_QUEUED, ge=1, description="Requests of all tenants that may wait before more are refused (503)."
    )
    max_image_bytes: int = Field(
        default=images.MAX_BYTES, ge=1, le=2**30, description="Bytes of an uploaded image, at most."
    )
    requests_per_s: float = Field(
        default=100, gt=0, le=_COUNT, description="Requests a second of a tenant, on average; more are refused (429)."
    )
    burst: int = Field(
        default=200, ge=1, le=_COUNT, description="Requests of a tenant at once, above that rate, at most."
    )
    waits_per_tenant: int = Field(
        default=200,
        ge=1,
        le=_COUNT,
        description="Long polls and streams of a tenant that are open at a time, at most (429).",
    )
    max_waits: int = Field(
        default=2_000,
        ge=1,
        le=_COUNT,
        description="Long polls and streams of all tenants that are open, at most (503).",
    )
    uploads_per_tenant: int = Field(
        default=8, ge=1, le=_COUNT, description="Uploads of a tenant that are read at a time, at most (429)."
    )
    max_uploads: int = Field(
        default=32, ge=1, le=_COUNT, description="Uploads of all tenants that are read at a time, at most (503)."
    )
    max_connections: int = Field(
        default=4_096, ge=2, le=_COUNT, description="Connections that are open, at most (503)."
    )
    max_wait_s: float = Field(default=60, gt=0, le=_SECONDS, description="Seconds that a long poll waits, at most.")
    max_stream_s: float = Field(
        default=3_600, gt=0, le=_SECONDS, description="Seconds after which a stream of events ends."
    )
    heartbeat_s: float = Field(default=15, gt=0, le=_SECONDS, description="Seconds between signs of life in a stream.")
    body_timeout_s: float = Field(
        default=30, gt=0, le=_SECONDS, description="Seconds within which the body of a request must have come (408)."
    )

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment.

        Raises:
            ConfigError: a wrong value, or a variable with our prefix that no setting has.
        """
        known = {environment.variable(PREFIX, name) for name in cls.model_fields}
        if unknown := sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known):
            raise ConfigError(f"no such setting: {', '.join(unknown)}")
        try:
            return cls()
        except ValidationError as error:
            raise ConfigError(environment.by_variable(describe_validation(error), cls, PREFIX)) from None


if __name__ == "__main__":
    print(environment.table(Settings, PREFIX))
