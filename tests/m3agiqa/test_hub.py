"""`hub.resolve` against a server on loopback that speaks the hub's protocol."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from m3agiqa import inputs
from m3agiqa.contract import Aspect
from m3agiqa.errors import CheckpointError, ConfigError, HubError, HubUnavailable
from m3agiqa.hub import Resolved, resolve
from m3agiqa.profile import ModelProfile
from tests.m3agiqa.hub_server import Hub

BASE, ADAPTER, HEADS = "lab/base", "lab/adapter", "lab/heads"


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


SHARDS = {f"model-0000{n}-of-00002.safetensors": noise(50_000, n) for n in (1, 2)}
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
BASE_FILES = {
    "config.json": b"{}",
    "tokenizer.json": noise(2_000, 3),
    "generation_config.json": b"{}",
    "model.safetensors.index.json": INDEX.encode(),
    **SHARDS,
}
UNWANTED = {"README.md": b"# read", "pytorch_model.bin": noise(5_000, 4), "modeling.py": b"print()"}
ADAPTER_FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": noise(4_000, 5)}
HEAD_FILES = {"a/best-epoch=1.ckpt": noise(3_000, 6), "b/best.ckpt": noise(3_000, 7), "b/last.ckpt": noise(3_000, 8)}


@pytest.fixture
def full(hub: Hub) -> Hub:
    hub.push(BASE, BASE_FILES | UNWANTED)
    hub.push(ADAPTER, ADAPTER_FILES | UNWANTED)
    hub.push(HEADS, HEAD_FILES)
    return hub


def make_profile(folder: Path, **changes: str) -> ModelProfile:
    at = {"base": BASE, "adapter": ADAPTER, "heads": HEADS, "file": "a/best-epoch=1.ckpt"} | changes
    aspect = {
        "adapter": at["adapter"],
        "head": at["head"] if "head" in at else {"repo": at["heads"], "file": at["file"]},
        "max_slices": 4,
        "context": 512,
        "analysis": "Look at '{prompt}'",
        "question": "How good?",
    }
    file = folder / "lab.yaml"
    content = {"name": "lab", "base": at["base"], "aspects": {"quality": aspect, "authenticity": aspect}}
    file.write_text(yaml.safe_dump(content))
    return ModelProfile.load(str(file))


def names_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir()}


def lock_of(resolved: Resolved) -> Path:
    assert resolved.lock is not None
    return resolved.lock


def test_a_sharded_base_is_fetched_with_only_the_files_that_are_needed(full: Hub, tmp_path: Path) -> None:
    resolved = resolve(make_profile(tmp_path))

    assert resolved.base is not None
    assert names_in(resolved.base) == set(BASE_FILES)
    for name, content in BASE_FILES.items():
        assert (resolved.base / name).read_bytes() == content
    assert names_in(resolved.adapters[Aspect.QUALITY]) == set(ADAPTER_FILES)
    assert resolved.heads[Aspect.AUTHENTICITY].read_bytes() == HEAD_FILES["a/best-epoch=1.ckpt"]
    assert set(resolved.revisions) == {
        "base", "adapter.quality", "head.quality", "adapter.authenticity", "head.authenticity",
    }  # fmt: skip
    assert resolved.revisions["base"] == full.branches[BASE]["main"]


def test_a_single_file_base_needs_no_index(hub: Hub, tmp_path: Path) -> None:
    hub.push(ADAPTER, ADAPTER_FILES)
    hub.push(HEADS, HEAD_FILES)
    single = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": noise(2_000, 1)}
    hub.push(BASE, single | UNWANTED)

    resolved = resolve(make_profile(tmp_path))

    assert resolved.base is not None
    assert names_in(resolved.base) == set(single)


def test_a_repository_named_by_several_parts_is_fetched_once(full: Hub, tmp_path: Path) -> None:
    resolve(make_profile(tmp_path))

    assert len(full.gets("adapter_model.safetensors")) == 1
    assert len(full.gets("best-epoch=1.ckpt")) == 1
    listings = [path for _, path, _ in full.seen if path.startswith("/api/models/")]
    assert len(listings) == len(set(listings)) == 3


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    full: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What was kept when the connection broke is whole chunks, by default of 10 MB.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    shard = "model-00002-of-00002.safetensors"
    full.cuts[shard] = 1

    resolved = resolve(make_profile(tmp_path))

    first, second = full.gets(shard)
    assert first is None
    assert second == "bytes=20000-"
    assert resolved.base is not None
    assert (resolved.base / shard).read_bytes() == SHARDS[shard]


def test_bytes_that_are_not_what_the_hub_lists_are_found_and_named(full: Hub, tmp_path: Path) -> None:
    shard = "model-00001-of-00002.safetensors"
    full.garbled[shard] = noise(50_000, 99)

    with pytest.raises(HubError, match=shard):
        resolve(make_profile(tmp_path))

    # Given an honest hub again, when verifying, then the damaged copy is replaced.
    full.garbled.clear()
    resolved = resolve(make_profile(tmp_path), verify=True)
    assert resolved.base is not None
    assert (resolved.base / shard).read_bytes() == SHARDS[shard]


def test_the_lock_says_what_was_resolved(full: Hub, tmp_path: Path) -> None:
    resolved = resolve(make_profile(tmp_path))

    lock = json.loads(lock_of(resolved).read_text())
    assert lock_of(resolved).parent == tmp_path / "cache" / "m3agiqa" / "locks"
    assert lock["profile"] == "lab"
    assert lock["parts"]["base"]["repo"] == BASE
    assert lock["parts"]["base"]["requested"] is None
    assert lock["parts"]["base"]["commit"] == full.branches[BASE]["main"]
    assert set(lock["parts"]["base"]["files"]) == set(BASE_FILES)
    head = lock["parts"]["head.quality"]["files"]["a/best-epoch=1.ckpt"]
    assert head["size"] == 3_000
    assert len(head["digest"]) == 64


def test_what_is_locked_is_used_without_the_network(full: Hub, tmp_path: Path) -> None:
    first = resolve(make_profile(tmp_path))
    full.seen.clear()

    assert resolve(make_profile(tmp_path)) == first
    assert resolve(make_profile(tmp_path), offline=True, verify=True) == first
    assert full.seen == []


def test_a_branch_that_moves_on_does_not_move_the_lock(full: Hub, tmp_path: Path) -> None:
    first = resolve(make_profile(tmp_path))
    moved = full.push(BASE, BASE_FILES | {"config.json": b'{"new": 1}'})
    shutil.rmtree(tmp_path / "hf")

    again = resolve(make_profile(tmp_path))
    assert again.revisions["base"] == first.revisions["base"] != moved
    assert again.base is not None
    assert (again.base / "config.json").read_bytes() == b"{}"

    updated = resolve(make_profile(tmp_path), update=True)
    assert updated.revisions["base"] == moved
    assert resolve(make_profile(tmp_path), offline=True).revisions["base"] == moved


def test_each_part_keeps_its_own_revision(full: Hub, tmp_path: Path) -> None:
    old = full.branches[ADAPTER]["main"]
    full.branches[ADAPTER]["v1"] = old
    new = full.push(ADAPTER, ADAPTER_FILES | {"adapter_config.json": b'{"r": 64}'})

    assert resolve(make_profile(tmp_path, adapter=f"{ADAPTER}@v1")).revisions["adapter.quality"] == old
    assert resolve(make_profile(tmp_path)).revisions["adapter.quality"] == new
    assert resolve(make_profile(tmp_path, adapter=f"{ADAPTER}@{old}")).revisions["adapter.quality"] == old


def test_a_lock_of_other_references_is_not_picked_up(full: Hub, tmp_path: Path) -> None:
    first = resolve(make_profile(tmp_path))
    full.push("lab/other", BASE_FILES)

    second = resolve(make_profile(tmp_path, base="lab/other"))

    assert lock_of(first) != lock_of(second)
    assert second.base is not None
    assert "other" in str(second.base)


def test_a_file_cut_on_disk_is_fetched_again_or_named(full: Hub, tmp_path: Path) -> None:
    shard = "model-00001-of-00002.safetensors"
    resolved = resolve(make_profile(tmp_path))
    assert resolved.base is not None
    (resolved.base / shard).resolve().write_bytes(SHARDS[shard][:100])

    with pytest.raises(HubError, match=f"{shard} is cut or damaged; run `m3agiqa download"):
        resolve(make_profile(tmp_path), offline=True)

    resolve(make_profile(tmp_path))
    assert (resolved.base / shard).read_bytes() == SHARDS[shard]


def test_damage_that_keeps_the_size_is_found_when_verifying(full: Hub, tmp_path: Path) -> None:
    resolved = resolve(make_profile(tmp_path))
    assert resolved.base is not None
    for name in ("config.json", "model-00001-of-00002.safetensors"):
        good = (resolved.base / name).read_bytes()
        (resolved.base / name).resolve().write_bytes(good[:-1] + b"?")

        with pytest.raises(HubError, match=f"{name} is cut or damaged"):
            resolve(make_profile(tmp_path), offline=True, verify=True)

        resolve(make_profile(tmp_path), verify=True)
        assert (resolved.base / name).read_bytes() == good


def test_offline_without_a_lock_says_what_to_run(full: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="m3agiqa download --model lab"):
        resolve(make_profile(tmp_path))
    assert full.seen == []


def test_offline_with_a_file_missing_names_it(full: Hub, tmp_path: Path) -> None:
    resolve(make_profile(tmp_path))
    shutil.rmtree(tmp_path / "hf" / "models--lab--adapter")
    with pytest.raises(HubError, match=r"lab/adapter adapter_config.json is not on this disk; run `m3agiqa download"):
        resolve(make_profile(tmp_path), offline=True)


@pytest.mark.parametrize(("status", "code"), [(401, None), (401, "GatedRepo"), (403, "GatedRepo"), (403, None)])
def test_a_refusal_says_to_accept_the_licence_and_set_a_token(
    full: Hub, tmp_path: Path, status: int, code: str
) -> None:
    full.refused[BASE] = (status, code)
    with pytest.raises(HubError, match=rf"ccept its licence at {full.endpoint}/{BASE}, then set HF_TOKEN") as caught:
        resolve(make_profile(tmp_path))
    assert not caught.value.retryable
    assert not (tmp_path / "cache").exists()


def test_a_repository_refused_after_the_lock_was_written_is_typed_too(full: Hub, tmp_path: Path) -> None:
    resolve(make_profile(tmp_path))
    shutil.rmtree(tmp_path / "hf")
    full.refused[ADAPTER] = (403, "GatedRepo")
    with pytest.raises(HubError, match=r"lab/adapter.* is gated"):
        resolve(make_profile(tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base": "lab/nothing"}, "lab/nothing: the hub has no such repository"),
        ({"base": "lab/base@v9"}, "lab/base@v9: the hub has no such revision"),
        ({"adapter": HEADS}, "lab/heads@.* has no adapter_config.json"),
        ({"base": ADAPTER}, "lab/adapter@.* has no config.json"),
        ({"file": "a/none.ckpt"}, r"no file matching a/none.ckpt; its checkpoints: a/best-epoch=1.ckpt, b/best.ckpt"),
        ({"file": "b/*.ckpt"}, r"2 files matching b/\*.ckpt"),
    ],
)
def test_what_is_not_there_is_named(full: Hub, tmp_path: Path, changes: dict[str, str], said: str) -> None:
    with pytest.raises(HubError, match=said):
        resolve(make_profile(tmp_path, **changes))


def test_a_commit_that_vanished_from_the_hub_is_named(full: Hub, tmp_path: Path) -> None:
    commit = resolve(make_profile(tmp_path)).revisions["adapter.quality"]
    shutil.rmtree(tmp_path / "hf")
    del full.commits[ADAPTER][commit]
    with pytest.raises(HubError, match=f"{commit[:12]}.*no such revision.*--update"):
        resolve(make_profile(tmp_path))


def test_a_pattern_takes_the_only_file_and_the_lock_pins_it(full: Hub, tmp_path: Path) -> None:
    profile = make_profile(tmp_path, file="a/*.ckpt")
    assert resolve(profile).heads[Aspect.QUALITY].name == "best-epoch=1.ckpt"
    full.push(HEADS, HEAD_FILES | {"a/another.ckpt": b"x"})
    assert resolve(profile).heads[Aspect.QUALITY].name == "best-epoch=1.ckpt"


@pytest.mark.parametrize("there", ["strawhat/minicpm2.5-AIGIQA-20k-ft", "strawhat/minicpm2.5-aigciqa-20k-ft"])
@pytest.mark.parametrize("named", ["strawhat/minicpm2.5-AIGIQA-20k-ft", "strawhat/minicpm2.5-aigciqa-20k-ft"])
def test_the_quality_adapter_is_found_under_either_spelling(full: Hub, tmp_path: Path, there: str, named: str) -> None:
    commit = full.push(there, ADAPTER_FILES)
    profile = make_profile(tmp_path, adapter=named)

    resolved = resolve(profile)

    assert resolved.revisions["adapter.quality"] == commit
    assert json.loads(lock_of(resolved).read_text())["parts"]["adapter.quality"]["repo"] == there
    assert resolve(profile, offline=True) == resolved


def test_a_short_outage_is_waited_out(full: Hub, tmp_path: Path) -> None:
    full.outage = 2
    assert resolve(make_profile(tmp_path)).base is not None


def test_a_long_outage_is_retryable(full: Hub, tmp_path: Path) -> None:
    full.outage = 1_000
    with pytest.raises(HubUnavailable, match="answered 503") as caught:
        resolve(make_profile(tmp_path))
    assert caught.value.retryable


def test_a_hub_that_is_not_there_is_retryable(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnavailable, match="cannot be reached"):
        resolve(make_profile(tmp_path))


def test_a_full_disk_is_found_before_the_download(full: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 20_000, 20_000))
    with pytest.raises(CheckpointError, match=r"only 0\.0 GB are free"):
        resolve(make_profile(tmp_path))
    assert full.gets("model-00001-of-00002.safetensors") == []


def test_a_damaged_lock_is_named(full: Hub, tmp_path: Path) -> None:
    lock = lock_of(resolve(make_profile(tmp_path)))
    lock.write_text(lock.read_text()[:50])
    with pytest.raises(CheckpointError, match=f"{lock} is damaged"):
        resolve(make_profile(tmp_path))
    assert resolve(make_profile(tmp_path), update=True).lock == lock


def test_a_pipe_in_place_of_a_lock_is_named(full: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = make_profile(tmp_path)
    lock = lock_of(resolve(profile))
    lock.unlink()
    os.mkfifo(lock)
    monkeypatch.setattr(inputs, "WRITER_S", 0.01)
    with pytest.raises(CheckpointError, match=f"lock {lock}: a pipe that nobody writes to; set XDG_CACHE_HOME"):
        resolve(profile, offline=True)


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def make_local(folder: Path) -> ModelProfile:
    write_files(folder / "base", BASE_FILES)
    write_files(folder / "adapter", ADAPTER_FILES)
    write_files(folder / "heads", HEAD_FILES)
    return make_profile(folder, base="base", adapter="./adapter", head=str(folder / "heads/a/best-epoch=1.ckpt"))


def test_local_parts_are_taken_as_they_are(tmp_path: Path) -> None:
    resolved = resolve(make_local(tmp_path), offline=True)

    assert resolved.base == tmp_path / "base"
    assert resolved.adapters[Aspect.QUALITY] == tmp_path / "adapter"
    assert resolved.heads[Aspect.QUALITY] == tmp_path / "heads" / "a" / "best-epoch=1.ckpt"
    assert resolved.lock is None
    assert all(revision.startswith("local:") for revision in resolved.revisions.values())
    assert {part.name: part.size_bytes for part in resolved.parts}["head.quality"] == 3_000


def test_local_revisions_follow_the_content(tmp_path: Path) -> None:
    first = resolve(make_local(tmp_path)).revisions
    assert resolve(make_local(tmp_path)).revisions == first

    write_files(tmp_path / "heads", {"a/best-epoch=1.ckpt": noise(3_000, 77)})
    second = resolve(ModelProfile.load(str(tmp_path / "lab.yaml"))).revisions
    assert second["head.quality"] != first["head.quality"]
    assert second["base"] == first["base"]


def test_the_fingerprint_of_a_large_file_sees_other_weights_of_the_same_size(tmp_path: Path) -> None:
    from m3agiqa.hub.files import fingerprint

    large = tmp_path / "large"
    large.write_bytes(bytes(20 * 2**20))
    first = fingerprint([large])
    large.write_bytes(bytes(10 * 2**20) + b"\1" * 2**20 + bytes(9 * 2**20))
    assert fingerprint([large]) != first


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("base/config.json", "has no config.json"),
        ("base/model-00002-of-00002.safetensors", "has no model-00002-of-00002.safetensors"),
        ("base/model.safetensors.index.json", "has no model.safetensors or model.safetensors.index.json"),
        ("adapter/adapter_model.safetensors", "has no adapter_model.safetensors or adapter_model.bin"),
        ("heads/a/best-epoch=1.ckpt", "no head at .*best-epoch=1.ckpt|does not exist"),
    ],
)
def test_a_local_part_that_lacks_a_file_is_named(tmp_path: Path, lost: str, said: str) -> None:
    profile = make_local(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises((CheckpointError, ConfigError), match=said):
        resolve(profile)


def test_random_weights_need_nothing() -> None:
    resolved = resolve(ModelProfile.load("random"), offline=True)
    assert resolved == Resolved(base=None, adapters={}, heads={}, revisions={})


def test_random_weights_cannot_stand_beside_trained_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="base, adapters and heads are all `random`"):
        make_profile(tmp_path, base="random")


def test_a_head_that_is_no_file_is_a_wrong_profile(tmp_path: Path) -> None:
    make_local(tmp_path)
    with pytest.raises(ConfigError, match=r"no head at heads/none\.ckpt"):
        resolve(make_profile(tmp_path, base="base", adapter="adapter", head="heads/none.ckpt"))


def test_a_local_profile_needs_no_huggingface_hub(tmp_path: Path) -> None:
    make_local(tmp_path)
    script = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from m3agiqa import hub; from m3agiqa.profile import ModelProfile\n"
        f"print(hub.resolve(ModelProfile.load({str(tmp_path / 'lab.yaml')!r})).base)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.stdout.strip() == str(tmp_path / "base"), done.stderr


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the machine does not know, as in a container with any UID."""

    def unknown(_: object) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.usefixtures("no_home")
def test_without_a_home_the_variables_to_set_are_named(
    full: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = make_profile(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(CheckpointError, match="set XDG_CACHE_HOME"):
        resolve(profile)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(CheckpointError, match="set HF_HOME"):
        resolve(profile)


@pytest.mark.usefixtures("no_home")
def test_a_profile_that_speaks_of_a_home_that_is_not_there_is_wrong(tmp_path: Path) -> None:
    profile = make_profile(tmp_path, base="~/base")
    with pytest.raises(ConfigError, match="~/base: there is no home folder; set HOME"):
        resolve(profile)


def test_a_cache_that_cannot_be_written_to_is_named(full: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = make_profile(tmp_path)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(CheckpointError, match="HF_HOME"):
        resolve(profile)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError, match="XDG_CACHE_HOME"):
        resolve(profile)
