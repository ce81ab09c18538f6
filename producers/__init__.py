"""Submit pictures to the queue and wait for their verdicts. Needs redis and pydantic, neither Celery nor torch."""

from m3agiqa.contract import ScoreRequest, Verdict
from producers.client import Client
from producers.ledger import State

__all__ = ["Client", "ScoreRequest", "State", "Verdict"]
