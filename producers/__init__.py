"""Submit images to the queue and wait for their verdicts. Needs redis and pydantic, neither Celery nor torch."""

from m3agiqa.client import Client
from m3agiqa.contract import ScoreRequest, Verdict
from m3agiqa.queue.state import State

__all__ = ["Client", "ScoreRequest", "State", "Verdict"]
