"""Has Celery 5.6 write JSON where it prints.

It prints a banner as it starts, and a line from the handler of each signal, past all logging.
"""

from __future__ import annotations

from typing import Any

from celery import signals
from celery.apps import worker

from worker.ops import logs


def install(instance: Any) -> None:
    """Have all that this process logs and prints be JSON from now on; `instance` is Celery's worker."""
    instance.quiet = True
    worker.safe_say = logs.say
    for made in (signals.after_setup_logger, signals.after_setup_task_logger):
        made.connect(logs.use_json_lines)
    logs.replace_prints()
