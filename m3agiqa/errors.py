"""Every way a request can fail, as a tree.

Each class carries its wire `code` and says whether trying again may help (`retryable`). A failure never turns into a
score: at the edges it becomes a `contract.Failure`.

    M3AGIQAError
    ├── RequestInvalid            the message or an argument is not a valid request
    │   ├── PromptTooLong         image and prompt leave no room in the aspect's context
    │   └── RequestExpired        nobody waits for it any more
    ├── ImageError                the bytes were fetched but are no usable image
    │   ├── ImageUnreadable       not an image, truncated, or a format that is not accepted
    │   ├── ImageTooLarge         too many pixels or bytes, or sides too unequal
    │   └── ImageTooCostly        decoding it takes more parts, scans or seconds than a sound image does
    ├── FetchError                the bytes could not be fetched
    │   ├── FetchForbidden        the address, port or scheme is not allowed
    │   ├── FetchRefused          the server answered that it will not serve it (4xx)
    │   └── FetchUnavailable      timeout, connection failure, 429 or 5xx               (retryable)
    ├── ConfigError               a profile, policy or setting is wrong
    ├── UsageError                an option of a command is wrong, or does not go with another
    ├── DataError                 a data set, a table or a file of records is wrong
    ├── OutputError               a file cannot be written: no room, no permission, or in use
    ├── CheckpointError           weights are missing or do not fit
    │   ├── HubError              the hub refused, or the file is not there
    │   └── HubUnavailable        the hub cannot be reached, or a download broke off    (retryable)
    ├── ScoringError              the model failed on this image
    │   ├── ScoreNotFinite        the head returned NaN or infinity
    │   ├── GoldenMismatch        a model does not give what it gave before
    │   ├── ScoringOutOfMemory    the device had no room for this batch                 (retryable)
    │   ├── DeviceLost            the GPU failed, and its process must be started again (retryable)
    │   └── ScoringTimeout        no score within the deadline                          (retryable)
    ├── DeliveryError             the verdict was not taken
    │   ├── DeliveryForbidden     the destination is not allowed, or not configured
    │   ├── DeliveryGone          the receiver answered 410: it wants no more
    │   ├── DeliveryMisconfigured credentials, quota or clock of the worker are wrong    (retryable)
    │   └── DeliveryUnavailable   timeout, connection failure or any other status        (retryable)
    ├── Busy                      what it needs is taken; it is put off and nobody is told (retryable)
    ├── OutOfMemory               this machine had no room for the image now          (retryable)
    ├── DecoderLost               the process that decoded the image ended            (retryable)
    ├── QueueUnavailable          Redis cannot be reached                               (retryable)
    ├── QueueFull                 too many requests wait already                        (retryable)
    ├── PoisonTask                it took too many workers along
    ├── TaskRevoked               an operator took it back
    ├── NotOwed                   a task that nobody has to do now: a repeated or late message
    ├── NewerVersion              written by a later version, for workers of that one
    ├── ResultTimeout             no verdict within the time the caller gave            (retryable)
    └── InternalError             a defect of ours                                      (retryable)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class M3AGIQAError(Exception):
    """Base of every failure this product raises on purpose.

    Messages are shown to callers and stand in verdicts: they never hold a prompt, a URL's query or a secret.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __str__(self) -> str:
        # A file's name need not be UTF-8; what is said of it must be, wherever that goes.
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


class FetchUnavailable(FetchError):
    """The image is not there now; `retry_after_s` is what its server asked for, if it did."""

    code = "fetch_unavailable"
    retryable = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


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
    """The GPU does nothing more for this process, which must be started again."""

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
    """Only an operator can change it: it is tried a few times, and no more."""

    code = "delivery_misconfigured"
    retryable = True


class DeliveryUnavailable(DeliveryError):
    """The receiver did not take the verdict; `retry_after_s` is what it asked for, if it did."""

    code = "delivery_unavailable"
    retryable = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Busy(M3AGIQAError):
    """What a task needs is taken: it comes again in `delay_s` seconds, and nothing is said to its caller."""

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
    """Come back after `retry_after_s` seconds; `submitted` are the ids of those before that are queued."""

    code = "queue_full"
    retryable = True

    def __init__(self, message: str, retry_after_s: float = 1.0, submitted: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.submitted = tuple(submitted)


class PoisonTask(M3AGIQAError):
    code = "poison"


class TaskRevoked(M3AGIQAError):
    code = "revoked"

    def __init__(self, message: str = "an operator took it back") -> None:
        super().__init__(message)


class NotOwed(M3AGIQAError):
    """Nothing has to be done."""

    code = "not_owed"


class NewerVersion(M3AGIQAError):
    code = "newer_version"


class ResultTimeout(M3AGIQAError):
    code = "result_timeout"
    retryable = True


class InternalError(M3AGIQAError):
    code = "internal_error"
    retryable = True
