import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from m3agiqa.bench.random_weights import TINY, write_adapter, write_base, write_head
from m3agiqa.engine.decoding import ModelRunner
from m3agiqa.engine.loading import load_network
from m3agiqa.engine.session import Session
from m3agiqa.errors import CheckpointError
from m3agiqa.model.shape import Shape
from m3agiqa.model.writing import train_tokenizer
from m3agiqa.profile import Describe
from tests.m3agiqa.golden import CPU, close
from tests.m3agiqa.oracle import Oracle

SHAPE = Shape(**{**vars(TINY), "saved": ("embed_tokens", "resampler")})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_base(folder / "base", SHAPE, train_tokenizer(["an image"], SHAPE.vocab), seed=0, dtype=torch.float32)
    for number, aspect in enumerate(("quality", "correspondence", "authenticity"), start=1):
        write_adapter(folder / aspect, SHAPE, seed=number, dtype=torch.float32)
    write_head(folder / "head.safetensors", SHAPE, seed=9)
    return folder


def load(checkpoint: Path, *aspects: str):
    return load_network(
        checkpoint / "base",
        {aspect: checkpoint / aspect for aspect in aspects},
        dict.fromkeys(aspects, checkpoint / "head.safetensors"),
        device=CPU,
        dtype=torch.float32,
    )


def states(network, rows: list[torch.Tensor], adapters: list[int]) -> list[torch.Tensor]:
    runner = ModelRunner(network.language, Describe(), [7], most=len(rows))
    return Session(runner, rows, adapters).states


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(folder: Path, change) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint whose quality adapter may be changed."""
    for name in ("base", "correspondence", "authenticity", "head.safetensors"):
        (tmp_path / name).symlink_to(checkpoint / name)
    (tmp_path / "quality").mkdir()
    for file in (checkpoint / "quality").iterdir():
        (tmp_path / "quality" / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora_alpha": 16},
        {"use_rslora": True, "lora_alpha": 3},
        {"alpha_pattern": {"layers.0.self_attn.q_proj": 11, "v_proj": 2}},
        {"target_modules": ["q_proj", "v_proj", "k_proj", "o_proj"]},
    ],
    ids=["plain", "alpha", "rslora", "alpha_pattern", "list"],
)
@torch.inference_mode()
def test_changed_states_are_pefts(adapter: Path, changes: dict[str, object]) -> None:
    # Given an adapter with such a configuration
    change_config(adapter / "quality", **changes)
    embeddings = torch.randn(7, SHAPE.hidden, generator=torch.Generator().manual_seed(0))
    # When peft puts it into transformers' model, and we into ours
    ours = states(load(adapter, "quality"), [embeddings], [0])[0]
    # Then the states are the same, and not the base's
    assert close(ours, Oracle(adapter / "base", adapter / "quality").states(embeddings))
    assert not close(ours, Oracle(adapter / "base").states(embeddings), 1e-2)


@pytest.mark.parametrize("adapters", [[0, 0, 1, 2, 2], [0, 1, 2], [1, 2], [2, 2]])
@torch.inference_mode()
def test_rows_of_several_adapters_in_one_batch_are_each_their_own(checkpoint: Path, adapters: list[int]) -> None:
    aspects = ("quality", "correspondence", "authenticity")
    rows = list(torch.randn(len(adapters), 9, SHAPE.hidden, generator=torch.Generator().manual_seed(0)))

    together = states(load(checkpoint, *aspects), rows, adapters)

    for row, adapter in enumerate(adapters):
        assert close(together[row], states(load(checkpoint, aspects[adapter]), [rows[row]], [0])[0])


def test_equal_towers_are_loaded_once_and_others_are_not(adapter: Path) -> None:
    # Given a quality adapter with correspondence's resampler
    other = load_file(adapter / "correspondence/adapter_model.safetensors")
    change_tensors(
        adapter / "quality",
        lambda tensors: {key: other[key] if "resampler" in key else tensor for key, tensor in tensors.items()},
    )

    network = load(adapter, "quality", "correspondence", "authenticity")

    towers = network.towers
    assert towers["quality"] is towers["correspondence"]
    assert towers["quality"] is not towers["authenticity"]
    shared = towers["authenticity"].vpm.post_layernorm.weight
    assert shared.data_ptr() == towers["quality"].vpm.post_layernorm.weight.data_ptr()


def test_base_tensors_that_every_adapter_replaces_are_not_loaded(checkpoint: Path) -> None:
    network = load(checkpoint, "quality", "correspondence")

    base = load_file(checkpoint / "base/model.safetensors")["llm.model.embed_tokens.weight"]
    tables = network.language.tables
    assert len(tables) == 2
    assert not any(torch.equal(table, base) for table in tables)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["embed_tokens", "resampler", "lm_head"]}, "lm_head"),
        ({"modules_to_save": ["embed_tokens", "resampler", "vpm"]}, "asks for base_model.model.vpm"),
        ({"modules_to_save": ["embed_tokens"]}, "not in adapter_config.json"),
        ({"target_modules": r"llm\..*self_attn\.(q_proj|k_proj)"}, "not in adapter_config.json"),
        ({"target_modules": r"llm\..*(self_attn|mlp)\..*_proj"}, "asks for base_model.model.llm"),
        ({"peft_type": "LOKR"}, "adapter_config.json"),
    ],
)
def test_what_the_configuration_says_and_the_tensors_do_not_is_refused(
    adapter: Path, changes: dict[str, object], message: str
) -> None:
    change_config(adapter / "quality", **changes)

    with pytest.raises(CheckpointError, match=message):
        load(adapter, "quality")


def test_a_tensor_of_another_shape_is_refused(adapter: Path) -> None:
    change_tensors(
        adapter / "quality",
        lambda tensors: {key: tensor[:-1] if "resampler.query" in key else tensor for key, tensor in tensors.items()},
    )

    with pytest.raises(CheckpointError, match=r"resampler\.query"):
        load(adapter, "quality")


def test_pickled_adapter_loads_without_running_code(adapter: Path) -> None:
    path = adapter / "quality/adapter_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    expected = load(adapter, "quality").language.tables[0]
    path.unlink()

    assert torch.equal(load(adapter, "quality").language.tables[0], expected)

    path.with_suffix(".bin").write_bytes(b"cos\nsystem\n(S'echo no'\ntR.")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load(adapter, "quality")
