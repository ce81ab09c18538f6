"""The scripts in `lua/`. Only scripts change the ledger: Redis runs each as one step, which nobody sees half done."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from m3agiqa.queue import keys

_NAMES = {
    "OWED": keys.OWED,
    "UNREAD": keys.UNREAD,
    "OLDEST": keys.OLDEST,
    "DEAD": keys.DEAD,
    "DEAD_ORDER": keys.DEAD_ORDER,
    "DEAD_BYTES": keys.DEAD_BYTES,
    "DEAD_DROPPED": keys.DEAD_DROPPED,
    "DEAD_CODES": keys.DEAD_CODES,
    "COUNTS": keys.COUNTS,
    "FAILING": keys.FAILING,
    "SHADOW": keys.SHADOW,
    "SHADOW_SHARE": keys.SHADOW_SHARE,
    "RATE": keys.RATE,
    "WORKERS": keys.WORKERS,
    "WORKER": keys.worker(""),
    "IMAGES": keys.IMAGES,
    "IMAGE": keys.image(""),
    "REQUEST": keys.request(""),
    "RESULT": keys.result(""),
    "DONE": keys.done(""),
    "SCORES": keys.scores(""),
    "ERASED": keys.erased(""),
    "SCORE_QUEUE": keys.SCORE_QUEUE,
    "DELIVER_QUEUE": keys.DELIVER_QUEUE,
    "LANE": keys.LANE,
    "FRONT": keys.FRONT,
    "LANES": keys.LANES,
    "USAGE": keys.USAGE,
}
#: Functions that every script may call.
SHARED = ("prelude", "letters")
#: Scripts that end work need little memory and free more, so Redis runs them though its memory is full. It refuses any
#: other script then before it starts, not in the middle.
_ALWAYS = frozenset({"renew", "mark", "settle", "postpone", "drop", "erase", "erase_tenant", "register", "look"})


@cache
def text(name: str, prefix: str = "") -> str:
    """The text of a script as Redis gets it; `prefix` stands in front of every name in Redis."""
    flags = " flags=allow-oom" if name in _ALWAYS else ""
    values = ", ".join(repr(prefix + value) for value in _NAMES.values())
    names = f"local {', '.join(_NAMES)} = {values}"
    return "\n".join([f"#!lua{flags}", names, *map(_file, SHARED), _file(name)])


def _file(name: str) -> str:
    return (files("m3agiqa.queue") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
