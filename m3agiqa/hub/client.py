"""Asks the hub through `huggingface_hub`: lists a repository, looks into the cache, fetches a file; types failures."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from m3agiqa.errors import CheckpointError, HubError, HubUnavailable
from m3agiqa.hub.lock import LockedPart, RemoteFile
from m3agiqa.profile import HubRef

#: Seconds before each further try of a hub that could not be reached. Within a try, a cut download resumes by itself.
RETRY_DELAYS_S = (1.0, 4.0)
LISTING_TIMEOUT_S = 30.0

#: The original's documentation and its code spell one adapter differently; the repository that exists is used.
_OTHER_SPELLING = {
    "strawhat/minicpm2.5-AIGIQA-20k-ft": "strawhat/minicpm2.5-aigciqa-20k-ft",
    "strawhat/minicpm2.5-aigciqa-20k-ft": "strawhat/minicpm2.5-AIGIQA-20k-ft",
}

#: Error numbers of a cache that cannot be written to.
_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EISDIR),
    *(errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
)

ResultT = TypeVar("ResultT")


class _RepoMissing(HubError):
    """The hub shows no such repository to this token."""


def offline_by_environment() -> bool:
    return bool(constants.HF_HUB_OFFLINE)


def cache_folder() -> Path:
    """Raises: CheckpointError: there is no home folder, and no variable names another."""
    try:
        return Path(constants.HF_HUB_CACHE).expanduser()
    except RuntimeError:
        raise CheckpointError("there is no home folder: set HF_HOME to a folder that can be written to") from None


def list_files(ref: HubRef) -> LockedPart:
    """Resolve `ref` to its commit, with all files of that commit.

    Raises:
        HubError: there is no such repository or revision, or no access to it.
        HubUnavailable: the hub cannot be reached.
    """
    try:
        return _list_files(ref)
    except _RepoMissing:
        other = _OTHER_SPELLING.get(ref.repo)
        if other is None:
            raise
        try:
            return _list_files(HubRef(other, ref.revision))
        except _RepoMissing as error:
            raise HubError(f"{error} (the same for {ref.repo})") from None


def _list_files(ref: HubRef) -> LockedPart:
    def call() -> LockedPart:
        info = HfApi().model_info(ref.repo, revision=ref.revision, files_metadata=True, timeout=LISTING_TIMEOUT_S)
        files = {
            file.rfilename: RemoteFile(
                size=file.size or 0, digest=(file.lfs.sha256 if file.lfs else file.blob_id) or ""
            )
            for file in info.siblings or []
        }
        return LockedPart(repo=ref.repo, requested=ref.revision, commit=info.sha or "", files=files)

    return _attempt(str(ref), call)


def cached(part: LockedPart, name: str) -> Path | None:
    """The cached file at this commit, None if the cache lacks it. No network is asked."""
    found = try_to_load_from_cache(part.repo, name, revision=part.commit)
    return Path(found) if isinstance(found, str) else None


def fetch(part: LockedPart, name: str, *, anew: bool = False, bar: Any = None) -> Path:
    """Bring one file into the cache. `anew` replaces a cached one; `bar` stands in for tqdm's class.

    Raises:
        HubError: the hub has no such file, or gives no access to it.
        HubUnavailable: the hub cannot be reached, or the download broke off for good.
        CheckpointError: the disk has no room, or there is no cache.
    """
    cache_folder()
    return Path(
        _attempt(
            f"{part.repo}@{part.commit[:12]} {name}",
            lambda: hf_hub_download(part.repo, name, revision=part.commit, force_download=anew, tqdm_class=bar),
        )
    )


def _attempt(what: str, call: Callable[[], ResultT]) -> ResultT:
    for delay_s in (*RETRY_DELAYS_S, None):
        try:
            return call()
        except Exception as error:
            failure = _typed(error, what)
            if delay_s is None or not failure.retryable:
                raise failure from error
            time.sleep(delay_s)
    raise AssertionError("unreachable")


def _typed(error: BaseException, what: str) -> CheckpointError:
    """One of our errors for `error` of `huggingface_hub`, whose own text may hold signed URLs and is dropped."""
    repo = what.partition("@")[0].partition(" ")[0]
    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(f"{what} is not on this disk and HF_HUB_OFFLINE is set; run `m3agiqa download` with it unset")
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return _typed(error.__cause__, what)
    if isinstance(error, GatedRepoError):
        return HubError(f"{what} is gated: accept its licence at {page}, then set HF_TOKEN to a token of that account")
    if isinstance(error, RevisionNotFoundError):
        return HubError(
            f"{what}: the hub has no such revision; a lock from before is renewed by `m3agiqa download --update`"
        )
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return HubError(f"{what}: the hub has no such file")
    if isinstance(error, HfHubHTTPError):
        return _typed_status(error, what, page)
    if isinstance(error, FileMetadataError):
        return HubError(f"{what}: {constants.ENDPOINT} does not answer like the hub; check HF_ENDPOINT and your proxy")
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return CheckpointError(f"{what}: {error.strerror} in {cache_folder()}; HF_HOME moves the cache")
    if isinstance(error, ValueError):
        return HubError(f"{what}: {constants.ENDPOINT} does not answer like the hub ({type(error).__name__})")
    return HubUnavailable(
        f"{what}: {constants.ENDPOINT} cannot be reached, or broke off ({type(error).__name__}); check HF_ENDPOINT and "
        "your proxy, and try again: what was fetched is kept"
    )


def _typed_status(error: HfHubHTTPError, what: str, page: str) -> CheckpointError:
    status = error.response.status_code
    if status >= 500 or status in (408, 429):
        return HubUnavailable(f"{what}: {constants.ENDPOINT} answered {status}")
    if isinstance(error, RepositoryNotFoundError) and status == 404:
        return _RepoMissing(f"{what}: the hub has no such repository")
    if status in (401, 403):
        # The hub answers strangers with 401 for private, gated and missing repositories alike.
        kind = _RepoMissing if isinstance(error, RepositoryNotFoundError) else HubError
        return kind(
            f"{what}: the hub answered {status}: it does not exist, is private or gated, or the token is wrong. "
            f"Accept its licence at {page}, then set HF_TOKEN to a token of that account"
        )
    return HubError(f"{what}: the hub answered {status}")


@contextmanager
def progress(total: int, *, show: bool) -> Iterator[Callable[[str, int], Any]]:
    """One bar on stderr over several files that are fetched in turn, `total` bytes in all.

    Yields a function that takes the next file's name and size, and returns the `bar` that `fetch` takes.
    """
    columns = (
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    before = size = 0
    with Progress(*columns, console=Console(stderr=True), disable=not show) as display:
        task = display.add_task("", total=total)

        class Bar:
            """The part of tqdm that `huggingface_hub` uses. A download that starts over makes a new bar."""

            def __init__(self, *_: Any, initial: int = 0, **__: Any) -> None:
                display.update(task, completed=before + initial)

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def update(self, n: float | None = 1) -> None:
                display.advance(task, n or 0)

            def _ignore(self, *_: Any, **__: Any) -> None:
                pass

            close = set_postfix_str = update_transfer = set_transfer_postfix_str = _ignore

        def start(name: str, next_size: int) -> type[Bar]:
            nonlocal before, size
            before, size = before + size, next_size
            display.update(task, description=name, completed=before)
            return Bar

        yield start
        display.update(task, completed=total)
