"""Every way a request or a command can fail, as a tree.

Each class carries its wire `code`, and `retryable` says whether another try may help. A failure never turns into a
score: where it leaves the process it becomes a `contract.Failure`.

    M3AGIQAError
    ├── RequestInvalid            a request to be scored is not valid
    │   ├── PromptTooLong         image and prompt leave no room in the aspect's context
    │   └── RequestExpired        its caller no longer waits
    ├── ImageError                the bytes were fetched but are no usable image
    │   ├── ImageUnreadable       not an image, truncated, or a format that is not accepted
    │   ├── ImageTooLarge         too many pixels or bytes, or sides too unequal
    │   └── ImageTooCostly        decoding takes more parts, scans or seconds than a sound image does
    ├── FetchError                the bytes could not be fetched
    │   ├── FetchForbidden        the address, port or scheme is not allowed
    │   ├── FetchRefused          the server answered that it will not serve it (4xx)
    │   ├── ImageGone             its bytes lay in Redis, and do no more
    │   └── FetchUnavailable      timeout, connection failure, 429 or 5xx               (retryable)
    ├── TenantError               its tenant may not have it scored now
    │   ├── TenantUnknown         no file names its tenant, and workers serve no other
    │   ├── TenantMisconfigured   its tenant's file cannot be read                      (retryable)
    │   └── QuotaExceeded         its tenant has as many waiting, or a day, as it may   (retryable)
    ├── ConfigError               a profile, policy or setting is wrong
    ├── UsageError                an option of a command is wrong, or does not go with another
    ├── DataError                 a data set, a table or a file of records is wrong
    ├── OutputError               a file cannot be written: no room, no permission, or in use
    ├── CheckpointError           weights are missing or do not fit
    │   ├── HubError              the hub refused, or the file is not there
    │   └── HubUnavailable        the hub cannot be reached, or a download broke off    (retryable)
    ├── ScoringError              the model failed on this image
    │   ├── ScoreNotFinite        the head returned NaN or infinity
    │   ├── GoldenMismatch        a model does not give the scores or descriptions that it gave before
    │   ├── ScoringOutOfMemory    the device had no room for this batch                 (retryable)
    │   ├── DeviceLost            the GPU failed, and its process must be started again (retryable)
    │   └── ScoringTimeout        no score within the deadline                          (retryable)
    ├── DeliveryError             the verdict was not taken
    │   ├── DeliveryForbidden     the destination is not allowed, or not configured
    │   ├── DeliveryGone          the receiver answered 410: it wants no more
    │   ├── DeliveryMisconfigured credentials, quota or clock of the worker are wrong   (retryable)
    │   └── DeliveryUnavailable   timeout, connection failure or any other status       (retryable)
    ├── Busy                      a task is put off until something it needs is free    (retryable)
    ├── OutOfMemory               this machine had no room for the image now            (retryable)
    ├── DecoderLost               the process that decoded the image ended              (retryable)
    ├── QueueUnavailable          Redis cannot be reached                               (retryable)
    ├── QueueFull                 too many requests wait already                        (retryable)
    ├── UploadError               an image could not be put into the bucket             (retryable)
    ├── PoisonTask                too many workers ended while they ran the task
    ├── RequestConflict           the request's id stands for another request
    ├── RequestCancelled          the request was taken back
    ├── TaskRevoked               an operator took the task back, by Celery's means
    ├── NotOwed                   the ledger owes no such task now: the message was repeated or late
    ├── NewerVersion              a later version wrote this, for workers of that version
    ├── ResultTimeout             no verdict within the time the caller gave            (retryable)
    └── InternalError             a defect of ours                                      (retryable)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class M3AGIQAError(Exception):
    """Base of every failure that this product raises on purpose.

    Callers see its message, in verdicts too: it never holds a prompt, a URL's query or a secret.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __str__(self) -> str:
        # A file's name need not be UTF-8, but a message that holds it must be.
        return super().__str__().encode("utf-8", "backslashreplace").decode()


class RequestInvalid(M3AGIQAError):
    code = "request_invalid"


class PromptTooLong(RequestInvalid):
    code = "prompt_too_long"


class RequestExpired(RequestInvalid):
    code = "expired"


class ImageError(M3AGIQAError):
    code = "image_error"


class ImageUnreadable(ImageError):
    code = "image_unreadable"


class ImageTooLarge(ImageError):
    code = "image_too_large"


class ImageTooCostly(ImageError):
    code = "image_too_costly"


class FetchError(M3AGIQAError):
    code = "fetch_error"


class FetchForbidden(FetchError):
    code = "fetch_forbidden"


class FetchRefused(FetchError):
    code = "fetch_refused"


class ImageGone(FetchError):
    code = "image_gone"

    def __init__(
        self, message: str = "its bytes are no longer in Redis: submit the image again, with retry_failed"
    ) -> None:
        super().__init__(message)


class FetchUnavailable(FetchError):
    """The image is not there now. `retry_after_s` is the wait that its server asked for, if it did."""

    code = "fetch_unavailable"
    retryable = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TenantError(M3AGIQAError):
    code = "tenant_error"


class TenantUnknown(TenantError):
    code = "tenant_unknown"

    def __init__(self, message: str = "workers serve no tenant of this name") -> None:
        super().__init__(message)


class TenantMisconfigured(TenantError):
    """Only an operator can mend this; until then, nothing is decided, signed or counted as another tenant's."""

    code = "tenant_misconfigured"
    retryable = True

    def __init__(self, message: str = "its tenant's file cannot be read; the worker's log says why") -> None:
        super().__init__(message)


class QuotaExceeded(TenantError):
    code = "quota_exceeded"
    retryable = True


class ConfigError(M3AGIQAError):
    code = "config_error"


class UsageError(M3AGIQAError):
    code = "usage_error"


class DataError(M3AGIQAError):
    code = "data_error"


class OutputError(M3AGIQAError):
    code = "output_error"


class CheckpointError(M3AGIQAError):
    code = "checkpoint_error"


class HubError(CheckpointError):
    code = "hub_error"


class HubUnavailable(CheckpointError):
    code = "hub_unavailable"
    retryable = True


class ScoringError(M3AGIQAError):
    code = "scoring_error"


class ScoreNotFinite(ScoringError):
    code = "score_not_finite"


class GoldenMismatch(ScoringError):
    code = "golden_mismatch"


class ScoringOutOfMemory(ScoringError):
    code = "scoring_out_of_memory"
    retryable = True


class DeviceLost(ScoringError):
    """The GPU no longer works for this process, which must be started again."""

    code = "device_lost"
    retryable = True


class ScoringTimeout(ScoringError):
    code = "scoring_timeout"
    retryable = True


class DeliveryError(M3AGIQAError):
    code = "delivery_error"


class DeliveryForbidden(DeliveryError):
    code = "delivery_forbidden"


class DeliveryGone(DeliveryError):
    code = "delivery_gone"


class DeliveryMisconfigured(DeliveryError):
    """Only an operator can mend this: the delivery is tried a few more times, then given up."""

    code = "delivery_misconfigured"
    retryable = True


class DeliveryUnavailable(DeliveryError):
    """The receiver did not take the verdict. `retry_after_s` is the wait that it asked for, if it did."""

    code = "delivery_unavailable"
    retryable = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Busy(M3AGIQAError):
    """Others use what a task needs: the task runs again in `delay_s` seconds, and its caller is told nothing."""

    code = "busy"
    retryable = True

    def __init__(self, message: str, delay_s: float = 1.0) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class OutOfMemory(M3AGIQAError):
    code = "out_of_memory"
    retryable = True


class DecoderLost(M3AGIQAError):
    code = "decoder_lost"
    retryable = True


class QueueUnavailable(M3AGIQAError):
    code = "queue_unavailable"
    retryable = True


class QueueFull(M3AGIQAError):
    """Submit again after `retry_after_s` seconds; the requests before, whose ids are `submitted`, are queued."""

    code = "queue_full"
    retryable = True

    def __init__(self, message: str, retry_after_s: float = 1.0, submitted: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.submitted = tuple(submitted)


class UploadError(M3AGIQAError):
    code = "upload_error"
    retryable = True


class RequestConflict(M3AGIQAError):
    """`request_ids` stand for other requests, which came first and stay; the call enqueued the requests `submitted`."""

    code = "request_conflict"

    def __init__(self, message: str, request_ids: Sequence[str] = (), submitted: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.request_ids = tuple(request_ids)
        self.submitted = tuple(submitted)


class RequestCancelled(M3AGIQAError):
    code = "cancelled"

    def __init__(self, message: str = "it was taken back before it was scored") -> None:
        super().__init__(message)


class PoisonTask(M3AGIQAError):
    code = "poison"


class TaskRevoked(M3AGIQAError):
    code = "revoked"

    def __init__(self, message: str = "an operator took it back") -> None:
        super().__init__(message)


class NotOwed(M3AGIQAError):
    code = "not_owed"


class NewerVersion(M3AGIQAError):
    code = "newer_version"


class ResultTimeout(M3AGIQAError):
    code = "result_timeout"
    retryable = True


class InternalError(M3AGIQAError):
    code = "internal_error"
    retryable = True


def tree(root: type[M3AGIQAError] = M3AGIQAError) -> list[type[M3AGIQAError]]:
    """`root` and every failure of this module below it."""
    below = [failure for child in root.__subclasses__() if child.__module__ == __name__ for failure in tree(child)]
    return [root, *below]
