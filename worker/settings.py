"""Every setting of the worker, read from the environment.

It is one table with its checks, and long because there are many settings: a reader looks for one here alone.
"""

from __future__ import annotations

import os
import re
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, IPvAnyAddress, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from m3agiqa import __version__, environment
from m3agiqa.contract import MAX_PIXELS, describe_validation
from m3agiqa.errors import ConfigError
from m3agiqa.fields import S3Uri
from m3agiqa.queue import images
from m3agiqa.queue.address import DEFAULT, NAMESPACE, Address
from m3agiqa.queue.connection import SILENCE_S
from m3agiqa.queue.ledger import DEAD_LETTERS_TTL_S

PREFIX = "M3AGIQA_"
#: Variables of the gateway, which its own class of settings knows.
_GATEWAY = PREFIX + "GATEWAY_"

#: What Kubernetes puts into the environment of every container for a Service named m3agiqa-something.
_SERVICE_LINK = re.compile(rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")

_LEAST_THREADS = 32

#: Comma-separated in the environment.
Names = Annotated[tuple[str, ...], NoDecode]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode]
Delays = Annotated[tuple[Annotated[float, Field(ge=0)], ...], NoDecode]
Ports = Annotated[tuple[Annotated[int, Field(ge=1, le=65_535)], ...], NoDecode]

#: No number of seconds, bytes or images makes sense beyond, and timers take none that is much larger.
_MOST = 2**32


class Settings(BaseSettings):
    """One field per environment variable, `M3AGIQA_` in front of its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True, allow_inf_nan=False)

    redis_url: SecretStr = Field(
        default=SecretStr(DEFAULT),
        description="Redis or Valkey with the queues; rediss:// or valkeys:// for TLS, unix:///path?db=0 for a socket, "
        "sentinel://host:26379,host:26379/0?master=NAME to ask Sentinels, sentinels:// with TLS.",
    )
    redis_username: str = Field(default="", description="User of Redis, instead of one in the URL.")
    redis_password: SecretStr = Field(
        default=SecretStr(""), description="Password of Redis as it is, nothing escaped, instead of one in the URL."
    )
    namespace: str = Field(
        default="",
        pattern=f"^({NAMESPACE})?$",
        description="Namespace in Redis, so that several platforms can share one: every name there begins with it "
        "and a colon. Producers need the same.",
    )
    redis_silence_s: float = Field(
        default=SILENCE_S,
        ge=2,
        description="Seconds without an answer after which a connection to Redis is given up, and a new one made.",
    )

    model: str = Field(
        default="mini", description="Name of a profile, a path to one, or `fake` for scores without a model."
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|(cpu|cuda)(:\d{1,3})?)$",
        description="cpu, cuda, cuda:N, or auto: a GPU if there is one.",
    )
    policy: str = Field(default="default", description="Policy of requests that name none.")
    shadow_policy: str | None = Field(
        default=None,
        description="Policy in shadow: verdicts tell what it would have decided, beside what was decided.",
    )
    echo_request: bool = Field(
        default=False,
        description="Repeat a request's image_url, prompt, callback_url and s3_uri in its verdict, for reports and "
        "`m3agiqa redecide`: prompts and links then lie wherever verdicts do.",
    )
    config_dir: Path | None = Field(
        default=None,
        description="Folder with `policies/`, `models/` and `tenants/` of yours, looked into before those that ship.",
    )
    tenants: Literal["any", "listed"] = Field(
        default="any",
        description="Tenants that are served: any, or those alone that have a file in `tenants/` of the configuration.",
    )
    max_batch: int = Field(default=8, ge=1, description="Images scored together at most.")
    max_wait_ms: float = Field(
        default=50,
        ge=0,
        description="Milliseconds the first image waits for others to fill its batch; up to a second more for those "
        "being opened.",
    )
    score_timeout_s: float = Field(
        default=120, gt=0, description="Seconds until a fetched image must have its score, all waits included."
    )
    score_retry_delays_s: Delays = Field(
        default=(5, 30), description="Seconds until a retryable failure (an image server's 503, say) is tried again."
    )
    lease_s: float = Field(
        default=30,
        gt=0,
        description="Seconds until a task whose worker died is given to another; a worker that lives renews them.",
    )
    visibility_timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="Seconds after which a task is given to another although its worker lives; "
        "unset, three times fetching, waiting and scoring together.",
    )

    max_lost_runs: int = Field(
        default=5, ge=1, description="Runs in a row of a task whose worker died, after which it is a dead letter."
    )
    score_cache_ttl_s: int = Field(
        default=86_400, ge=0, description="Seconds that scores are remembered for the same image and prompt; 0, none."
    )

    fetch_timeout_s: float = Field(default=20, gt=0, description="Seconds to fetch an image, in all.")
    fetch_first_byte_s: float = Field(
        default=5,
        gt=0,
        description="Seconds of these until its server must have begun to answer, status and headers complete.",
    )
    fetch_max_bytes: int = Field(default=32 * 2**20, gt=0, description="Bytes of an image as fetched, at most.")
    fetch_ports: Ports = Field(default=(80, 443), description="Ports an image may be fetched from.")
    fetch_allow_hosts: Names = Field(
        default=(),
        description="What is trusted although its address is private or its port unusual: host:port, .domain:port "
        "for every host below, network/bits:port.",
    )
    fetch_retry_missing: bool = Field(
        default=False,
        description="Try an image that is not there (404, NoSuchKey) again like one whose server is down: for stores "
        "that show a new object a moment late.",
    )
    fetch_s3_buckets: Names = Field(default=(), description="Buckets that s3:// images may be read from.")
    inline_max_bytes: int = Field(
        default=images.MAX_BYTES,
        gt=0,
        description="Bytes of an image that came through Redis, at most; a client has a limit of its own.",
    )
    upload: S3Uri | None = Field(
        default=None,
        description="For clients alone: s3://bucket/prefix to which they upload images that they have as bytes; unset, "
        "these go through Redis.",
    )
    max_pixels: int = Field(default=MAX_PIXELS, gt=0, description="Pixels of an image, at most.")
    decoders: int | None = Field(
        default=None,
        ge=1,
        description="Processes that decode images; half as many come on top for those that take long. "
        "Unset, half as many as processors, from 2 to 8.",
    )
    decode_timeout_s: float = Field(
        default=5,
        gt=0,
        description="Seconds of processor time that decoding an image may take; beyond, it is image_too_costly.",
    )
    picture_budget_mib: int = Field(
        default=1024,
        ge=64,
        description="Mebibytes for all images that are fetched, decoded or wait for their scores; others wait.",
    )

    webhook_secrets: Secrets = Field(
        default=(), description="Standard Webhooks secrets (whsec_...); each signs every callback, for rotation."
    )
    webhook_host_secrets: dict[str, tuple[SecretStr, ...]] = Field(
        default={},
        description="Secrets of single receivers instead of those: JSON, host (of any port), host:port or https://host "
        "to a list of secrets.",
    )
    webhook_host_headers: dict[str, dict[str, SecretStr]] = Field(
        default={},
        description="Headers that single receivers want, Authorization for one: JSON, host:port or https://host to an "
        "object of names and values. They are neither logged nor sent elsewhere.",
    )
    deliver_timeout_s: float = Field(default=10, gt=0, description="Seconds a receiver may take to answer.")
    deliver_retry_delays_s: Delays = Field(
        default=(5, 30, 300, 1800, 7200, 18_000, 36_000),
        description="Seconds until a failed delivery is tried again, plus up to a fifth; then it is dead.",
    )
    deliver_max_per_host: int = Field(
        default=8,
        ge=1,
        description="Deliveries to one receiver (its domain, or its address) at a time, by one worker; keep it below "
        "its threads.",
    )
    deliver_allow_hosts: Names = Field(
        default=(),
        description="Receivers trusted although private or on an unusual port: host:port, .domain:port for every "
        "host below, network/bits:port.",
    )
    deliver_s3_buckets: Names = Field(default=(), description="Buckets that verdicts may be written to.")
    slow_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Part of a worker's threads that may wait longer than a second for image servers or receivers; "
        "one slow server gets half of it. More if your own are slow.",
    )
    user_agent: str | None = Field(
        default=None,
        pattern=r"^[!-~]+( [!-~]+)*$",
        max_length=256,
        description="User-Agent of whatever is fetched and delivered; unset, m3agiqa and its version.",
    )
    s3_endpoint_url: str | None = Field(default=None, description="An S3-compatible service other than AWS.")
    s3_addressing_style: Literal["auto", "path", "virtual"] | None = Field(
        default=None,
        description="Where a bucket's name stands: in the path, or in the host name (virtual). Unset, path with "
        "M3AGIQA_S3_ENDPOINT_URL and auto without.",
    )

    memory_growth_limit_mib: int = Field(
        default=4096,
        ge=0,
        description="Mebibytes by which a worker may outgrow its start before it ends; 0, no limit.",
    )
    remote_control: bool = Field(
        default=False,
        description="Obey Celery's control commands (shutdown, revoke, rate_limit ...) from whoever reaches Redis; "
        "questions are answered always.",
    )
    result_ttl_s: int = Field(default=86_400, ge=1, description="Seconds a verdict stays in Redis.")
    dead_letters_mib: int = Field(
        default=64, ge=1, description="Mebibytes of dead letters kept; then the oldest are dropped, and counted."
    )
    dead_letters_ttl_s: int = Field(
        default=DEAD_LETTERS_TTL_S, ge=1, description="Seconds a dead letter is kept; prompts and URLs stand in them."
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="Logs as text, or as JSON, an object a line; neither has prompts or queries of URLs.",
    )
    exporter_port: int = Field(
        default=9808, ge=1, le=65_535, description="Port of `python -m worker.exporter`, which serves metrics."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="Port of a worker's own metrics; each worker of a host needs one of its own. Unset, none.",
    )
    metrics_address: IPvAnyAddress = Field(
        default=IPv4Address("127.0.0.1"),
        description="Address on which a worker serves its metrics; 0.0.0.0 for all of the host's.",
    )
    shadow_of: str | None = Field(
        default=None,
        description="For `python -m worker.shadow` alone: profile of production whose verdicts it compares with its "
        "own; `on` for any.",
    )
    shadow_share: float = Field(
        default=0.05, gt=0, le=1, description="Part of production's requests that the shadow worker scores as well."
    )
    shadow_file: Path | None = Field(
        default=None, description="File to which the shadow worker appends its comparisons, JSON lines; unset, none."
    )
    tracing: bool = Field(
        default=False,
        description="Make spans of OpenTelemetry, which `m3agiqa[tracing]` installs; its OTEL_ variables say the rest.",
    )
    sentry_dsn: SecretStr | None = Field(default=None, description="Errors are reported there if set.")
    sentry_environment: str = Field(default="production", description="Environment named to Sentry.")
    health_dir: Path | None = Field(
        default=None, description="Folder for the probes' files, which workers may share; unset, none."
    )

    @field_validator(
        "score_retry_delays_s",
        "fetch_ports",
        "fetch_allow_hosts",
        "fetch_s3_buckets",
        "webhook_secrets",
        "deliver_retry_delays_s",
        "deliver_allow_hosts",
        "deliver_s3_buckets",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value

    @field_validator("exporter_port", "metrics_port", mode="before")
    @classmethod
    def _not_kubernetes(cls, value: object, info: ValidationInfo) -> object:
        # For a Service named m3agiqa-metrics, Kubernetes sets M3AGIQA_METRICS_PORT in every container to tcp://...
        if isinstance(value, str) and re.match("(tcp|udp|sctp)://", value):
            return cls.model_fields[str(info.field_name)].default
        return value

    @field_validator("*")
    @classmethod
    def _within_reach(cls, value: object) -> object:
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, int | float) and number > _MOST for number in numbers):
            raise ValueError(f"must be at most {_MOST}")
        return value

    @field_validator("redis_url")
    @classmethod
    def _names_a_server(cls, value: SecretStr) -> SecretStr:
        try:
            Address.parse(value.get_secret_value())
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("s3_endpoint_url")
    @classmethod
    def _names_a_service(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            known = False
        if not known or "@" in parts.netloc or parts.query or parts.fragment or re.search(r"\s", value):
            raise ValueError("must look like https://host:port, with a path if the service has one, and nothing else")
        return value

    @property
    def effective_user_agent(self) -> str:
        return self.user_agent or f"m3agiqa/{__version__}"

    @property
    def effective_s3_addressing_style(self) -> str:
        # Services other than AWS often have no host name per bucket.
        return self.s3_addressing_style or ("path" if self.s3_endpoint_url else "auto")

    @property
    def redis(self) -> Address:
        """Where Redis is, and who we are there."""
        address = Address.parse(self.redis_url.get_secret_value())
        return address.as_user(self.redis_username, self.redis_password.get_secret_value()).within(self.namespace)

    @property
    def effective_visibility_timeout_s(self) -> float:
        if self.visibility_timeout_s is not None:
            return self.visibility_timeout_s
        return 3 * (self.fetch_timeout_s + self.max_wait_ms / 1000 + self.score_timeout_s)

    @property
    def threads(self) -> int:
        """Threads of a worker that is started without -c: batches stay full where images take long to fetch."""
        return max(_LEAST_THREADS, 3 * self.max_batch)

    @property
    def effective_decoders(self) -> int:
        return self.decoders or min(8, max(2, processors() // 2))

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment.

        Raises:
            ConfigError: a wrong value, or a variable with our prefix that no setting has: a misspelt guard is no guard.
        """
        known = {variable(name) for name in cls.model_fields}
        given = (
            name
            for name in os.environ
            if name.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(name) and not name.startswith(_GATEWAY)
        )
        if unknown := sorted(name for name in given if name not in known):
            raise ConfigError(f"no such setting: {', '.join(unknown)}")
        try:
            return cls()
        except ValidationError as error:
            raise ConfigError(environment.by_variable(describe_validation(error), Settings, PREFIX)) from None
        except SettingsError as error:
            # It names the field in quotes, and nothing of the value.
            _, field, *_ = str(error).split('"')
            raise ConfigError(f"{variable(field)}: it must be JSON") from None


def variable(field: str) -> str:
    """The environment variable of a field."""
    return environment.variable(PREFIX, field)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def table() -> str:
    """Every setting in Markdown, as docs/settings.md shows them."""
    return environment.table(Settings, PREFIX)


if __name__ == "__main__":
    print(table())
