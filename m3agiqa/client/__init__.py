"""`Client` and `AsyncClient` submit images and wait for verdicts, `Gate` sorts images by them.

Needs redis and pydantic, neither Celery nor torch.
"""

from m3agiqa.client.aio import AsyncClient
from m3agiqa.client.gate import Gate, Judged
from m3agiqa.client.submitting import MAX_QUEUED, Fields, refuse_unknown_policy
from m3agiqa.client.sync import Client
from m3agiqa.contract import ScoreRequest, Verdict
from m3agiqa.queue.erasing import Erased, ErasedTenant
from m3agiqa.queue.standing import Status
from m3agiqa.queue.state import State
from m3agiqa.queue.usage import Usage

__all__ = [
    "MAX_QUEUED",
    "AsyncClient",
    "Client",
    "Erased",
    "ErasedTenant",
    "Fields",
    "Gate",
    "Judged",
    "ScoreRequest",
    "State",
    "Status",
    "Usage",
    "Verdict",
    "refuse_unknown_policy",
]
