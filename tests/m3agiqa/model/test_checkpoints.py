import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from m3agiqa.bench import random_weights
from m3agiqa.bench.random_weights import TINY, write_base
from m3agiqa.engine.loading import load_network
from m3agiqa.errors import CheckpointError
from m3agiqa.model.checkpoints import SharedTensors, TensorFiles, read_head, read_json
from m3agiqa.model.language import LlamaShape
from m3agiqa.model.vision import Tower
from m3agiqa.model.writing import train_tokenizer
from tests.m3agiqa.golden import BUNDLED, CPU, SHARED, published

GOLDEN = BUNDLED / "models/mini_s0"


@published
def test_every_published_key_maps_onto_the_modules() -> None:
    config = read_json(SHARED / "published/config.json")
    index = read_json(SHARED / "published/model.safetensors.index.json")

    with torch.device("meta"):
        tower = Tower(config["vision_config"], config["hidden_size"], config["query_num"])

    shapes = {
        **LlamaShape.from_config(config).tensors(),
        **{key: tensor.shape for key, tensor in tower.state_dict().items()},
    }
    assert len(index["weight_map"]) == 741
    assert set(shapes) == set(index["weight_map"])
    assert sum(math.prod(shape) for shape in shapes.values()) * 4 == index["metadata"]["total_size"]


def test_shards_and_a_single_file_hold_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer(["an image"], TINY.vocab)
    write_base(tmp_path / "single", TINY, tokenizer, seed=0)
    monkeypatch.setattr(random_weights, "_SHARD_BYTES", 400_000)
    write_base(tmp_path / "sharded", TINY, tokenizer, seed=0)

    single, sharded = (TensorFiles.in_folder(tmp_path / name, "model") for name in ("single", "sharded"))

    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert not (tmp_path / "sharded/model.safetensors").exists()
    assert set(single.names()) == set(sharded.names())
    for key in single.names():
        assert torch.equal(single.read(key, CPU, torch.float32), sharded.read(key, CPU, torch.float32))


def test_a_missing_shard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_weights, "_SHARD_BYTES", 400_000)
    write_base(tmp_path, TINY, train_tokenizer(["an image"], TINY.vocab), seed=0)
    (tmp_path / "model-00002.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"missing model-00002\.safetensors"):
        TensorFiles.in_folder(tmp_path, "model")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    whole = (GOLDEN / "base/model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        TensorFiles.in_folder(tmp_path, "model")


def golden_with(tmp_path: Path, **files: bytes) -> Path:
    """The golden base with some files replaced."""
    for file in (GOLDEN / "base").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name, content in files.items():
        (tmp_path / name.replace("_json", ".json")).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config_json": b"{}"}, "config.json is not"),
        ({"config_json": b"[]"}, "not a JSON object"),
        ({"config_json": b"{"}, "not JSON"),
        ({"tokenizer_json": b"{}"}, "tokenizer.json"),
    ],
)
def test_broken_base_files_are_named(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_network(
            golden_with(tmp_path, **files),
            {"quality": GOLDEN / "adapters/quality"},
            {"quality": GOLDEN / "heads/quality.ckpt"},
            device=CPU,
            dtype=torch.float32,
        )


def test_a_base_with_unknown_tensors_is_refused(tmp_path: Path) -> None:
    base = golden_with(tmp_path)
    tensors = load_file(base / "model.safetensors")
    save_file({**tensors, "llm.model.layers.7.extra": torch.zeros(1)}, base / "model.safetensors")

    with pytest.raises(CheckpointError, match=r"unknown tensors llm\.model\.layers\.7\.extra"):
        load_network(base, {}, {}, device=CPU, dtype=torch.float32)


def test_a_head_of_another_base_is_refused(tmp_path: Path) -> None:
    head = read_head(GOLDEN / "heads/quality.ckpt")
    head["W.weight"] = head["W.weight"][:, :-1].contiguous()
    save_file({f"model.{key}": tensor for key, tensor in head.items()}, tmp_path / "head.safetensors")

    with pytest.raises(CheckpointError, match=r"head\.safetensors does not fit the base"):
        load_network(
            GOLDEN / "base",
            {"quality": GOLDEN / "adapters/quality"},
            {"quality": tmp_path / "head.safetensors"},
            device=CPU,
            dtype=torch.float32,
        )


def test_a_file_that_is_no_head_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"model.other": torch.zeros(1)}}, tmp_path / "other.ckpt")

    with pytest.raises(CheckpointError, match=r"other\.ckpt is not a head's checkpoint"):
        read_head(tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="is missing"):
        read_head(tmp_path / "none.ckpt")


def test_equal_tensors_are_shared_and_others_kept() -> None:
    shared, first = SharedTensors(), torch.arange(3)

    assert shared.share("a", first) is first
    assert shared.share("a", torch.arange(3)) is first
    assert shared.share("a", torch.arange(4)) is not first
    assert shared.share("b", torch.arange(3)) is not first


def test_an_index_without_a_weight_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}}))

    with pytest.raises(CheckpointError, match="weight_map"):
        TensorFiles.in_folder(tmp_path, "model")
