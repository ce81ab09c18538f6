"""Versions of the contract: which one a message follows, and what a reader of another one does with it."""

from __future__ import annotations

import re
from collections.abc import Collection

from m3agiqa.errors import NewerVersion

#: Version of the contract that this code follows. A reader ignores the fields that a later minor version added, and
#: leaves a message of another major version to other readers.
VERSION = "1.3"
#: What a version looks like.
FORM = r"^[0-9]{1,4}\.[0-9]{1,4}$"


def without_later_fields(payload: object, known: Collection[str]) -> object:
    """`payload` without the fields that a later minor version added to the `known` ones.

    Raises:
        NewerVersion: it follows a later major version.
    """
    version = payload.get("version") if isinstance(payload, dict) else None
    if not isinstance(version, str) or not re.fullmatch(FORM, version):
        return payload
    theirs, ours = ([int(part) for part in each.split(".")] for each in (version, VERSION))
    if theirs[0] > ours[0]:
        raise NewerVersion(f"follows version {theirs[0]} of the contract, and this worker {ours[0]}")
    if theirs <= ours:
        return payload
    assert isinstance(payload, dict)
    return {name: value for name, value in payload.items() if name in known}
