import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from m3agiqa.errors import CheckpointError
from m3agiqa.model.adapters import Routing
from m3agiqa.model.network import load_network
from m3agiqa.model.random_weights import MINI, Shape, train_tokenizer, write_adapter, write_base, write_head
from tests.m3agiqa.golden import CPU, close

SHAPE = Shape(**{**vars(MINI), "saved": ("embed_tokens", "resampler")})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_base(folder / "base", SHAPE, train_tokenizer(["a picture"], SHAPE.vocab), seed=0, dtype=torch.float32)
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
    embeds = torch.randn(2, 7, SHAPE.hidden, generator=torch.Generator().manual_seed(0))
    # When peft puts it into the plain base, and we into ours
    plain = load(adapter, "quality").language
    ours = plain.hidden_states(list(embeds), [(0, 2)])
    config = LoraConfig.from_pretrained(adapter / "quality")
    config.modules_to_save = None
    theirs = _plain_base(adapter)
    inject_adapter_in_model(config, theirs)
    tensors = {
        key.removeprefix("base_model.model."): tensor
        for key, tensor in load_file(adapter / "quality/adapter_model.safetensors").items()
        if "lora" in key
    }
    set_peft_model_state_dict(theirs, tensors)
    expected = theirs.llm.model(inputs_embeds=embeds).last_hidden_state
    # Then the states are the same, and not the base's
    assert close(ours, expected, 1e-5)
    assert not close(ours, _plain_base(adapter).llm.model(inputs_embeds=embeds).last_hidden_state, 1e-2)


def _plain_base(folder: Path):
    """The base's language model without adapters."""
    from m3agiqa.model.checkpoints import TensorFiles, assign, read_json
    from m3agiqa.model.language import Language

    with torch.device("meta"):
        language = Language(read_json(folder / "base/config.json"), Routing())
    files = TensorFiles.in_folder(folder / "base", "model")
    assign(language, {key: files.read(key, CPU, torch.float32) for key in language.state_dict()}, "base")
    language.materialise(CPU)
    return language


@torch.inference_mode()
def test_rows_of_several_adapters_in_one_batch_are_each_their_own(checkpoint: Path) -> None:
    aspects = ("quality", "correspondence", "authenticity")
    together = load(checkpoint, *aspects).language
    rows = list(torch.randn(5, 9, SHAPE.hidden, generator=torch.Generator().manual_seed(0)))

    states = together.hidden_states(rows, [(0, 2), (1, 1), (2, 2)])

    for row, aspect in enumerate(("quality", "quality", "correspondence", "authenticity", "authenticity")):
        alone = load(checkpoint, aspect).language.hidden_states([rows[row]], [(0, 1)])
        assert close(states[row], alone[0], 1e-5)
    assert not close(states[1], states[2], 1e-2)


def test_beams_follow_their_rows_adapter() -> None:
    routing = Routing()

    with routing.rows([(0, 2), (2, 1)]):
        assert routing.split(9) == [(0, slice(0, 6)), (2, slice(6, 9))]


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
    tables = network.language.llm.model.embed_tokens.tables
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
    expected = load(adapter, "quality").language.llm.model.embed_tokens.tables[0]
    path.unlink()

    assert torch.equal(load(adapter, "quality").language.llm.model.embed_tokens.tables[0], expected)

    path.with_suffix(".bin").write_bytes(b"cos\nsystem\n(S'echo no'\ntR.")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load(adapter, "quality")
