"""Finds a profile's parts on this disk; those on the hub are locked and fetched."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from m3agiqa.contract import Aspect
from m3agiqa.errors import CheckpointError, ConfigError, HubError
from m3agiqa.hub import files
from m3agiqa.hub.lock import Lock, LockedPart, lock_path, make_room_for
from m3agiqa.profile import RANDOM, HubHead, HubRef, ModelProfile

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One part of a model on this disk."""

    #: "base", "adapter.quality", "head.quality", ...
    name: str
    #: Where the part comes from, as the profile names it; a head's source ends with its file.
    source: str
    #: The part's folder; a head's file.
    path: Path
    #: Commit on the hub, or the fingerprint of local files.
    revision: str
    size_bytes: int


@dataclass(frozen=True)
class Resolved:
    """Where all parts of a profile lie."""

    #: None for random weights.
    base: Path | None
    adapters: Mapping[Aspect, Path]
    heads: Mapping[Aspect, Path]
    #: Commit or fingerprint of each part, as verdicts show it.
    revisions: dict[str, str]
    parts: tuple[Part, ...] = ()
    #: None if nothing of the profile is on the hub.
    lock: Path | None = None


@dataclass(frozen=True)
class _Wanted:
    """A part to be found; `file` is a head's path inside `source`."""

    name: str
    source: HubRef | Path
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.source}" if self.file is None else f"{self.source} {self.file}"

    def select(self, folder: files.Folder) -> list[str]:
        if self.file is not None:
            return files.head_file(folder, self.file)
        return files.base_files(folder) if self.name == "base" else files.adapter_files(folder)


def resolve(
    profile: ModelProfile,
    *,
    offline: bool | None = None,
    progress: bool | None = None,
    update: bool = False,
    verify: bool = False,
) -> Resolved:
    """Find every part of `profile`, and fetch what is missing.

    The first call resolves the hub's references to commits and writes them to a lock. Later calls use exactly those
    commits, and ask the network only for files that the cache lacks.

    Args:
        profile: Whose parts to find.
        offline: Never use the network; None obeys HF_HUB_OFFLINE.
        progress: Show a bar on stderr; None does if stderr is a terminal.
        update: Resolve the references anew instead of obeying the lock.
        verify: Compare the digest of every cached file; without it, their sizes, and the digests of fetched files.

    Raises:
        ConfigError: a reference is neither on this disk nor a hub id.
        CheckpointError: a local part lacks a file, or there is no room for a download.
        HubError: the hub refused, lacks a file, or a file is missing or damaged on this disk while offline.
        HubUnavailable: the hub cannot be reached.
    """
    wanted = _wanted(profile)
    remote = [part for part in wanted if isinstance(part.source, HubRef)]
    parts = {part.name: _local_part(part, part.source) for part in wanted if isinstance(part.source, Path)}
    path = None
    if remote:
        # Imported here, because a profile of local parts needs no huggingface_hub.
        from m3agiqa.hub import client

        offline = client.offline_by_environment() if offline is None else offline
        path = lock_path(profile.name, {part.name: str(part) for part in remote})
        known = None if update else Lock.read(path)
        if known is None and offline:
            raise HubError(f"profile {profile.name} is not downloaded; run `m3agiqa download --model {profile.name}`")
        lock = known or _make_lock(profile.name, remote)
        if known is None:
            make_room_for(path)
        show = sys.stderr.isatty() if progress is None else progress
        cached = _fetch(lock, offline=offline, show=show, verify=verify)
        if known is None:
            lock.write(path)
        parts |= {part.name: _remote_part(part, lock.parts[part.name], cached) for part in remote}
    return Resolved(
        base=parts["base"].path if "base" in parts else None,
        adapters={
            aspect: parts[f"adapter.{aspect}"].path for aspect in profile.aspects if f"adapter.{aspect}" in parts
        },
        heads={aspect: parts[f"head.{aspect}"].path for aspect in profile.aspects if f"head.{aspect}" in parts},
        revisions={part.name: parts[part.name].revision for part in wanted},
        parts=tuple(parts[part.name] for part in wanted),
        lock=path,
    )


def _wanted(profile: ModelProfile) -> list[_Wanted]:
    wanted = [] if profile.base == RANDOM else [_Wanted("base", profile.source(profile.base))]
    for aspect, parts in profile.aspects.items():
        if parts.adapter != RANDOM:
            wanted.append(_Wanted(f"adapter.{aspect}", profile.source(parts.adapter)))
        if parts.head != RANDOM:
            wanted.append(_wanted_head(profile, aspect, parts.head))
    return wanted


def _wanted_head(profile: ModelProfile, aspect: Aspect, head: HubHead | str) -> _Wanted:
    source = profile.source(head if isinstance(head, str) else head.repo)
    if isinstance(source, Path):
        path = source if isinstance(head, str) else source / head.file
        return _Wanted(f"head.{aspect}", path.parent, path.name)
    if isinstance(head, str):
        raise ConfigError(
            f"profile {profile.name}: no head at {head}; on the hub it is written {{repo: owner/name, file: ...}}"
        )
    return _Wanted(f"head.{aspect}", source, head.file)


def _local_part(part: _Wanted, folder: Path) -> Part:
    names = part.select(files.Folder.local(folder))
    paths = [folder / name for name in names]
    return Part(
        name=part.name,
        source=str(folder if part.file is None else paths[0]),
        path=folder if part.file is None else paths[0],
        revision=files.fingerprint(paths),
        size_bytes=sum(path.stat().st_size for path in paths),
    )


def _make_lock(profile: str, wanted: list[_Wanted]) -> Lock:
    from m3agiqa.hub import client

    listings: dict[HubRef, LockedPart] = {}
    parts = {}
    for part in wanted:
        assert isinstance(part.source, HubRef)
        if part.source not in listings:
            listings[part.source] = client.list_files(part.source)
        listing = listings[part.source]
        folder = files.Folder(
            where=f"{listing.repo}@{listing.commit[:12]}",
            names=listing.files,
            open=partial(client.fetch, listing),
            error=HubError,
        )
        names = part.select(folder)
        parts[part.name] = listing.model_copy(update={"files": {name: listing.files[name] for name in names}})
    return Lock(profile=profile, parts=parts)


#: Repository, commit, file.
_Key = tuple[str, str, str]


def _fetch(lock: Lock, *, offline: bool, show: bool, verify: bool) -> dict[_Key, Path]:
    """Every locked file's path in the cache. Fetches each missing or damaged one, once."""
    from m3agiqa.hub import client

    cached: dict[_Key, Path] = {}
    missing: dict[_Key, tuple[LockedPart, Path | None]] = {}
    for part in lock.parts.values():
        for name, file in part.files.items():
            key = (part.repo, part.commit, name)
            path = client.cached(part, name)
            if path is not None and path.stat().st_size == file.size and (not verify or file.matches(path)):
                cached[key] = path
            else:
                missing[key] = (part, path)
    if not missing:
        return cached
    if offline:
        (_, _, name), (part, path) = next(iter(missing.items()))
        what = f"{part.repo} {name} is not on this disk" if path is None else f"{path} is cut or damaged"
        raise HubError(f"{what}; run `m3agiqa download --model {lock.profile}` with the network on")
    total = sum(part.files[name].size for (_, _, name), (part, _) in missing.items())
    _check_room(total, client.cache_folder())
    logger.info("fetching %d files, %.1f GB", len(missing), total / 1e9)
    with client.progress(total, show=show) as start:
        for key, (part, path) in missing.items():
            name = key[2]
            file = part.files[name]
            cached[key] = client.fetch(part, name, anew=path is not None, bar=start(name, file.size))
            if not file.matches(cached[key]):
                raise HubError(
                    f"{cached[key]} is not what the hub lists for {part.repo} {name}; run the download again"
                )
    return cached


def _check_room(total: int, cache: Path) -> None:
    try:
        existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise CheckpointError(f"{cache}: {error.strerror}; set HF_HOME to a folder that can be written to") from error
    if total > free:
        raise CheckpointError(
            f"{total / 1e9:.1f} GB to download, but only {free / 1e9:.1f} GB are free in {existing}; "
            "make room, or set HF_HOME to a folder on a larger disk"
        )


def _remote_part(wanted: _Wanted, part: LockedPart, cached: Mapping[_Key, Path]) -> Part:
    name = next(iter(part.files))
    file = cached[part.repo, part.commit, name]
    folder = file.parents[len(Path(name).parts) - 1]
    return Part(
        name=wanted.name,
        source=str(wanted.source) if wanted.file is None else f"{wanted.source} {name}",
        path=folder if wanted.file is None else file,
        revision=part.commit,
        size_bytes=sum(file.size for file in part.files.values()),
    )
