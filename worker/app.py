"""The Celery application: `celery -A worker.app worker -P threads -c N -Q score`, and the same with `-Q deliver`.

Importing this module reads no setting and starts nothing; `worker.lifecycle` does, once a worker starts.
"""

from __future__ import annotations

import ssl
from typing import Any

from celery import Celery
from kombu.entity import Exchange, Queue

from m3agiqa.errors import ConfigError
from m3agiqa.queue import keys
from m3agiqa.queue.address import Address
from m3agiqa.queue.connection import CONNECT_TIMEOUT_S
from m3agiqa.queue.sentinel import sentinel_options
from worker import lifecycle, runtime
from worker.settings import Settings


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings."""
    redis = settings.redis
    return {
        "broker_url": redis.broker_url,
        "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED, **redis.tls} if redis.scheme == "rediss" else False,
        # Redis may be away for any time, also while a worker starts, and may refuse commands during a failover.
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "broker_transport_options": {
            "visibility_timeout": settings.effective_visibility_timeout_s,
            # By default, kombu looks for abandoned messages only every 100 s.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # Looking takes milliseconds. By default, a worker that dies meanwhile keeps others from looking for 300 s.
            "unacked_mutex_expire": 10,
            "queue_order_strategy": "priority",
            "priority_steps": list(keys.PRIORITIES),
            "sep": keys.SEPARATOR,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
            # Otherwise the main loop would wait for ever on a connection that died without a word.
            "socket_timeout": settings.redis_silence_s,
            "health_check_interval": settings.redis_silence_s,
            # Lists and channels of Celery, too, belong to the namespace.
            "global_keyprefix": redis.prefix,
            **_to_sentinels(redis),
        },
        "task_queues": [_queue(keys.SCORE_QUEUE), _queue(keys.DELIVER_QUEUE)],
        "task_default_queue": keys.SCORE_QUEUE,
        # A misspelt -Q is an error, not a new queue.
        "task_create_missing_queues": False,
        # A message is gone from Redis only after its task is done.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_concurrency": settings.threads,
        # A worker takes no more messages than it has threads: others stay for other workers, by priority.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        # A rate limit would have a task wait inside a worker until its lease ends.
        "worker_disable_rate_limits": True,
        # The ledger keeps verdicts.
        "result_backend": None,
        "task_ignore_result": True,
        "accept_content": ["json"],
        "task_serializer": "json",
        "enable_utc": True,
        # Flower shows what events tell. Events of sending would need Celery in the producer.
        "worker_send_task_events": True,
        "task_send_sent_event": False,
        # Celery leaves the root logger and stdout as they are.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def _to_sentinels(address: Address) -> dict[str, Any]:
    if address.sentinels is None:
        return {}
    return {"master_name": address.sentinels.master, "sentinel_kwargs": sentinel_options(address)}


def _queue(name: str) -> Queue:
    return Queue(name, Exchange(name, type="direct"), routing_key=name)  # type: ignore[no-untyped-call]


def _from_environment() -> dict[str, Any]:
    try:
        return configuration(Settings.from_environment())
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None


app = Celery("m3agiqa", events="worker.celery_patches.events:Events")
app.add_defaults(_from_environment)
lifecycle.connect()


@app.task(name=keys.SCORE_TASK)  # type: ignore[untyped-decorator]
def score(name: str) -> str:
    """Score the request of this name."""
    return runtime.current().score(name)


@app.task(name=keys.DELIVER_TASK)  # type: ignore[untyped-decorator]
def deliver(name: str) -> str:
    """Deliver the verdict that this name stands for."""
    return runtime.current().deliver(name)
