"""What each tenant may do, as files in `tenants/` of the configuration say: `acme.yaml` for the tenant `acme`.

A tenant without a file has the defaults of its workers. A tenant whose file is wrong, and always was, gets nothing
scored until it is mended, as no other secrets, policy or quota may stand in for its own; its neighbours notice nothing.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from m3agiqa import config, fields
from m3agiqa.errors import ConfigError, DataError, QuotaExceeded, TenantError, TenantMisconfigured, TenantUnknown
from m3agiqa.failure import Failure
from m3agiqa.inputs import read_bytes

#: Bytes of a secret of Standard Webhooks, which stands behind `whsec_` in base64.
_SECRET_BYTES = range(24, 65)


def webhook_key(secret: str) -> bytes:
    """The bytes of a secret of Standard Webhooks, as `whsec_` and base64. Raises ValueError if it breaks the standard;
    the message shows nothing of it.
    """
    text = secret.removeprefix("whsec_").rstrip("=")
    try:
        # The package for webhooks would accept "hunter2" as base64.
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        key = b""
    if len(key) not in _SECRET_BYTES:
        raise ValueError("must be whsec_ and 24 to 64 bytes in base64")
    return key


def _checked(secret: SecretStr) -> SecretStr:
    webhook_key(secret.get_secret_value())
    return secret


class Tenant(BaseModel):
    """One file of `tenants/`. What it leaves out is as the workers' settings say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: fields.Tenant
    #: Policy of its requests that name none.
    policy: str | None = Field(default=None, pattern=fields.POLICY)
    #: Secrets of Standard Webhooks that sign its callbacks, each of them, and no others do.
    webhook_secrets: tuple[Annotated[SecretStr, AfterValidator(_checked)], ...] = ()
    #: A file with more of them, one a line, which is read for each callback; beside the tenant's if it is relative.
    webhook_secrets_file: Path | None = None
    #: Hosts that its callbacks may go to; `.example.com` stands for every host below. None allows any.
    callback_hosts: tuple[Annotated[str, Field(pattern=r"^\.?[a-z0-9_:\[\]-]+(\.[a-z0-9_-]+)*$")], ...] | None = None
    #: Requests at most that are admitted and that no worker has begun.
    max_waiting: int | None = Field(default=None, ge=0)
    #: Requests at most that are admitted on a day, in UTC.
    images_per_day: int | None = Field(default=None, ge=0)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a tenant's file.

        Raises:
            ConfigError: it cannot be read, is wrong, or is a copy that still has the original's name in it.
        """
        tenant = config.load(path, cls)
        if tenant.name != path.stem:
            raise ConfigError(f"{path}: name: must be {path.stem}, as the file's, not {tenant.name}")
        if tenant.webhook_secrets_file is None:
            return tenant
        return tenant.model_copy(update={"webhook_secrets_file": path.parent / tenant.webhook_secrets_file})

    def secrets(self) -> list[str]:
        """Every secret that signs its callbacks; none if it has none of its own.

        Raises:
            TenantMisconfigured: the file that it names for them cannot be read, or holds none.
        """
        found = [secret.get_secret_value() for secret in self.webhook_secrets]
        if self.webhook_secrets_file is None:
            return found
        try:
            more = read_bytes(self.webhook_secrets_file).decode().split()
            for secret in more:
                webhook_key(secret)
        except (DataError, ValueError):
            more = []
        if not more:
            raise TenantMisconfigured("its tenant's webhook_secrets_file cannot be read, or holds no secret")
        return found + more

    def may_call(self, host: str) -> bool:
        """Whether callbacks may go to a host, which is in lower case."""
        if self.callback_hosts is None:
            return True
        return any(host == one or (one.startswith(".") and host.endswith(one)) for one in self.callback_hosts)


@dataclass(frozen=True)
class Terms:
    """On which terms workers admit a request: how many of its tenant may wait, and come in a day; and how a request
    beyond is answered. None is no limit.
    """

    max_waiting: int | None = None
    images_per_day: int | None = None
    failure: Failure | None = None
    #: Policy of the tenant.
    policy: str | None = None


#: Without limits.
FREE = Terms()


class Tenants:
    """Every tenant that a file of the configuration names, read again when it changes. Threads may share it.

    With `listed`, a tenant that no file names gets nothing scored.
    """

    def __init__(self, *, listed: bool = False) -> None:
        self._listed = listed
        self._files = config.Files(Tenant.read)

    def find(self, name: str | None) -> Tenant | None:
        """What the file of a tenant says; None if there is no such file.

        Raises:
            TenantMisconfigured: it is wrong, and always was.
        """
        try:
            path = None if name is None else config.named("tenants", name)
        except ConfigError:
            # The operator's folder is away. It names tenants, perhaps this one.
            raise TenantMisconfigured("the folder of tenants' files is away") from None
        if path is None:
            return None
        found = self._files.current(path)
        if found is None:
            raise TenantMisconfigured
        return found

    def terms(self, name: str | None) -> Terms:
        """On which terms requests of a tenant are admitted; without a tenant, there are no limits."""
        try:
            tenant = self.find(name)
            if tenant is None and name is not None and self._listed:
                raise TenantUnknown
        except TenantError as error:
            return Terms(max_waiting=0, failure=Failure.from_error(error))
        if tenant is None:
            return FREE
        limits = {"waiting at once": tenant.max_waiting, "a day (UTC)": tenant.images_per_day}
        told = " and ".join(f"{limit} {what}" for what, limit in limits.items() if limit is not None)
        failure = Failure.from_error(QuotaExceeded(f"its tenant may have {told}; try again later")) if told else None
        return Terms(tenant.max_waiting, tenant.images_per_day, failure, tenant.policy)
