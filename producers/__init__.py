"""Submit images to the queue and wait for their verdicts. Needs redis and pydantic, neither Celery nor torch."""

from m3agiqa.client import AsyncClient, Client, ScoreRequest, State, Verdict

__all__ = ["AsyncClient", "Client", "ScoreRequest", "State", "Verdict"]
