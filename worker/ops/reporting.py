"""Reports errors to Sentry, without prompts and URLs.

It builds an event anew from the few fields listed here: if it removed what is known to be private instead, it would
pass on whatever the next release of the SDK adds.
"""

from __future__ import annotations

import logging
from typing import Any

import sentry_sdk
from sentry_sdk.integrations import Integration
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.excepthook import ExcepthookIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.integrations.threading import ThreadingIntegration

from m3agiqa import __version__, errors
from m3agiqa.contract import Failure
from worker.settings import Settings

logger = logging.getLogger(__name__)

_EVENT = (
    *("event_id", "timestamp", "platform", "level", "logger", "release", "environment", "server_name"),
    *("transaction", "sdk", "type"),
)
_TAGS = ("celery_task_id",)
_CONTEXTS = ("runtime",)
_EXCEPTION = ("type", "module", "thread_id")
_MECHANISM = ("type", "handled")
_FRAME = (
    *("filename", "abs_path", "function", "module", "lineno", "in_app"),
    *("pre_context", "context_line", "post_context"),  # lines of source, no data
)
#: Loggers whose messages are format strings. Other libraries may log whole URLs.
_LOGGERS = ("worker", "m3agiqa", "producers", "celery", "kombu")


def failure_of(error: Exception, request_id: str) -> Failure:
    """The failure that stands for an error. An error that is none of ours is reported."""
    if not isinstance(error, errors.M3AGIQAError):
        logger.error("unexpected failure of request %s", request_id, exc_info=error)
    return Failure.from_error(error)


def setup_sentry(settings: Settings) -> None:
    """Report errors of this process from now on, if `sentry_dsn` is set.

    Raises:
        ConfigError: it is no DSN.
    """
    if settings.sentry_dsn is None:
        return
    integrations: list[Integration] = [
        CeleryIntegration(propagate_traces=False),
        LoggingIntegration(level=None, event_level=logging.ERROR),
        ExcepthookIntegration(),
        ThreadingIntegration(propagate_scope=False),
        DedupeIntegration(),
        AtexitIntegration(callback=lambda pending, timeout: None),
    ]
    try:
        sentry_sdk.init(
            dsn=settings.sentry_dsn.get_secret_value(),
            environment=settings.sentry_environment,
            release=f"m3agiqa@{__version__}",
            integrations=integrations,
            # Sentry's other integrations trace every HTTP request, and send headers of their own to strangers.
            default_integrations=False,
            auto_enabling_integrations=False,
            trace_propagation_targets=[],
            include_local_variables=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            auto_session_tracking=False,
            before_send=_scrub,
            before_send_transaction=_drop,
        )
    except sentry_sdk.utils.BadDsn:
        raise errors.ConfigError("M3AGIQA_SENTRY_DSN is not a Sentry DSN (https://KEY@HOST/PROJECT)") from None


def _drop(event: Any, hint: Any) -> None:
    """Send no transaction: its spans are named by URLs and commands."""


def _scrub(event: Any, hint: Any) -> Any:
    kept = _only(event, _EVENT)
    kept["tags"] = _only(event.get("tags"), _TAGS)
    kept["contexts"] = _only(event.get("contexts"), _CONTEXTS)
    if "exception" in event:
        kept["exception"] = {"values": [_exception(value) for value in event["exception"]["values"]]}
    template = (event.get("logentry") or {}).get("message")
    if template and str(event.get("logger")).split(".")[0] in _LOGGERS:
        kept["logentry"] = {"message": template}
    return kept


def _exception(value: dict[str, Any]) -> dict[str, Any]:
    kept = _only(value, _EXCEPTION)
    if value.get("module") == errors.__name__:
        # Messages of our own errors hold nothing private; others may hold anything.
        kept["value"] = value.get("value")
    kept["mechanism"] = _only(value.get("mechanism"), _MECHANISM)
    frames = (value.get("stacktrace") or {}).get("frames") or []
    kept["stacktrace"] = {"frames": [_only(frame, _FRAME) for frame in frames]}
    return kept


def _only(values: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in (values or {})}
