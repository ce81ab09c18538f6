"""The scripts and the rest of the protocol call the same things by the same names."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.resources import files

import pytest
from redis import Redis

from m3agiqa.queue import keys, scripts
from tests.support import ROOT

SOURCES = {
    file.name: file.read_text(encoding="utf-8")
    for file in (files("m3agiqa.queue") / "lua").iterdir()
    if file.name.endswith(".lua")
}
NAMES = sorted(name.removesuffix(".lua") for name in SOURCES if name.removesuffix(".lua") not in scripts.SHARED)


def code(source: str) -> str:
    """Without comments and strings."""
    return re.sub(r"'[^'\n]*'", "''", re.sub(r"--.*", "", source))


def words(source: str) -> set[str]:
    """Constants that a script has from somewhere."""
    found = set(re.findall(r"\b[A-Z][A-Z_]+\b", code(source)))
    return found - set(re.findall(r"\blocal ([A-Z][A-Z_]+) =", code(source))) - {"ARGV", "KEYS"}


def test_scripts_know_each_key_by_its_name(redis: Redis) -> None:
    # given the line in front of every script
    [line] = {scripts.text(name).splitlines()[1] for name in NAMES}
    names = line.removeprefix("local ").partition(" = ")[0].split(", ")
    # when a script gives back what its names stand for
    given = redis.eval(f"{line}\nreturn {{{', '.join(names)}}}", 0)
    # then it is what the rest of the protocol means by them
    prefixes = ("image", "request", "result", "done", "worker", "scores", "erased")
    meant = {name.upper(): getattr(keys, name)("") for name in prefixes}
    assert dict(zip(names, given, strict=True)) == {name: meant.get(name) or getattr(keys, name) for name in names}
    # and there are no other names in them, and none too many
    shared = "\n".join(SOURCES[f"{name}.lua"] for name in scripts.SHARED)
    prelude = set(re.findall(r"^local ([A-Z_]+) =", shared, re.MULTILINE))
    assert set().union(*map(words, SOURCES.values())) - prelude == set(names)
    assert not [name for name, source in SOURCES.items() if "m3agiqa:" in re.sub(r"--.*", "", source)]


def test_scripts_of_a_namespace_know_nothing_outside_it(redis: Redis) -> None:
    bare, ours = (scripts.text("claim", prefix).splitlines()[1] for prefix in ("", "staging:"))
    names = bare.removeprefix("local ").partition(" = ")[0]
    was, now = (redis.eval(f"{line}\nreturn {{{names}}}", 0) for line in (bare, ours))
    assert now == [f"staging:{name}" for name in was]


def test_scripts_know_the_lists_and_lanes_of_each_priority(redis: Redis) -> None:
    # given the functions of every script
    [header, names, *_] = scripts.text("sweep", "staging:").splitlines()
    source = "\n".join([header, names, SOURCES["prelude.lua"]])
    # when one names where requests of a tenant and of none wait
    told = redis.eval(
        f"""{source}
        local found = {{}}
        for _, priority in ipairs(PRIORITIES) do
            for _, tenant in ipairs({{'', 'acme'}}) do
                local lane = lane_of(tenant, priority)
                for _, key in ipairs({{lane.list, lane.names, lane.front, lane.lengths}}) do found[#found + 1] = key end
            end
        end
        return found""",
        0,
    )
    # then it is what the rest of the protocol means
    assert told == [
        f"staging:{key}"
        for priority in keys.PRIORITIES
        for tenant in (None, "acme")
        for key in (
            keys.wakeups(keys.SCORE_QUEUE, priority),
            keys.lane(priority, tenant),
            keys.front(priority, tenant),
            keys.lanes(priority),
        )
    ]


def test_lists() -> None:
    assert [keys.wakeups("score", priority) for priority in keys.PRIORITIES] == [
        "score",
        "score:3",
        "score:6",
        "score:9",
    ]
    with pytest.raises(ValueError, match="priority 4"):
        keys.wakeups("score", 4)


@pytest.mark.parametrize("name", NAMES)
def test_redis_takes_each_script(name: str, redis: Redis) -> None:
    assert redis.script_load(scripts.text(name))


@pytest.mark.skipif(shutil.which("luacheck") is None, reason="no luacheck here")
def test_luacheck_finds_nothing() -> None:
    checked = subprocess.run(
        ["luacheck", "--no-color", "m3agiqa/queue/lua"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
