"""Errors as `application/problem+json` (RFC 9457), with the code of the failure."""

from __future__ import annotations

import json
import logging
import math
import traceback
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

from m3agiqa import errors
from m3agiqa.errors import M3AGIQAError, QueueFull

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

#: Status of each failure that a client may cause or meet. Any other is a defect of ours, or of the set-up.
STATUSES: dict[type[M3AGIQAError], int] = {
    errors.RequestInvalid: 422,
    errors.RequestConflict: 409,
    errors.QueueFull: 503,
    errors.QueueUnavailable: 503,
    errors.UploadError: 503,
}
#: Failures whose words are for clients; those of others name hosts of ours.
_TOLD = (errors.RequestInvalid, errors.RequestConflict, errors.QueueFull)
#: Codes of what only HTTP knows.
CODES = {401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 429: "rate_limited"}
_RETRY_AFTER_S = 1.0


class Problem(Exception):
    """What a client is told instead of an answer."""

    def __init__(self, status: int, code: str, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def content(self) -> dict[str, object]:
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }

    def response(self, headers: dict[str, str] | None = None) -> Response:
        headers = dict(headers or {})
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(json.dumps(self.content), self.status, headers, MEDIA_TYPE)


def unauthorized() -> Problem:
    return Problem(401, "unauthorized", "a valid API key is needed")


def not_found() -> Problem:
    return Problem(404, "not_found", "there is no such thing")


def invalid(detail: str, status: int = 422) -> Problem:
    return Problem(status, errors.RequestInvalid.code, detail)


def problem_of(error: Exception) -> Problem:
    """What to tell of an error, which is logged where it is not the client's. Neither holds a request's values."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(error.status_code, CODES.get(error.status_code, errors.RequestInvalid.code), str(error.detail))
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)
    if isinstance(error, M3AGIQAError):
        if not isinstance(error, _TOLD):
            logger.warning("%s: %s", error.code, error)
        detail = str(error) if isinstance(error, _TOLD) else HTTPStatus(status).phrase
        retry = error.retry_after_s if isinstance(error, QueueFull) else _RETRY_AFTER_S if status == 503 else None
        return Problem(status, error.code, detail, retry_after_s=retry)
    # Its message may hold anything, so the log has its type and where it was raised.
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s raised:\n%s", type(error).__name__, where)
    return Problem(500, errors.InternalError.code, HTTPStatus.INTERNAL_SERVER_ERROR.phrase)
