"""A failure as a verdict tells it."""

from __future__ import annotations

from typing import Self

from m3agiqa.errors import InternalError, M3AGIQAError, OutOfMemory
from m3agiqa.fields import Wire


class Failure(Wire):
    """A failure as a value, so that an error of `errors` can travel."""

    code: str
    message: str
    retryable: bool

    @classmethod
    def from_error(cls, error: BaseException) -> Self:
        """`error` as a value. An unforeseen one becomes an `internal_error` that shows its type alone, as its text may
        hold secrets.

        The message can be written as JSON, also where it holds the name of a file that is not UTF-8.
        """
        if isinstance(error, MemoryError):
            error = OutOfMemory("this machine had no room for it; give the worker more memory, or fewer threads")
        if isinstance(error, M3AGIQAError):
            return cls(code=error.code, message=str(error), retryable=error.retryable)
        return cls(
            code=InternalError.code,
            message=f"unexpected {type(error).__name__}",
            retryable=InternalError.retryable,
        )
