"""Keeps a worker from obeying commands: in Celery 5.6, anybody who reaches Redis can end a worker, have it take no more
tasks, or set its log level, by a message.

Without `M3AGIQA_REMOTE_CONTROL`, a worker answers questions and obeys no command.
"""

from __future__ import annotations

from celery.worker.control import Panel

#: Questions that workers ask each other as they start, and that Flower and `celery inspect` ask.
ALLOWED_COMMANDS = frozenset(
    {
        "hello", "ping", "clock", "stats", "active", "active_queues", "registered", "reserved", "scheduled", "revoked",
        "conf", "report", "query_task", "enable_events", "heartbeat",
    }
)  # fmt: skip


def refuse_commands() -> None:
    """Forget every command that is not allowed."""
    for name in list(Panel.data):
        if name not in ALLOWED_COMMANDS:
            del Panel.data[name]
