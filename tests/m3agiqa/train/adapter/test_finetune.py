"""`finetune` on a base of tiny random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file

from m3agiqa import hub
from m3agiqa.bench.random_weights import TINY, write_base, write_head
from m3agiqa.cli import main
from m3agiqa.contract import Aspect
from m3agiqa.engine.loading import load_network
from m3agiqa.files import read_job
from m3agiqa.model.shape import Shape
from m3agiqa.model.slicing import Slicing
from m3agiqa.model.tokens import ConversationTokenizer
from m3agiqa.model.writing import train_tokenizer
from m3agiqa.profile import ModelProfile
from m3agiqa.train.adapter.finetune import ConversationDataset, FineTuning
from m3agiqa.train.adapter.trainee import Trainee
from m3agiqa.train.data.conversations import ConversationRecord, read_conversations, write_conversations
from m3agiqa.train.data.dataset import load_data
from m3agiqa.train.head.states import for_one_aspect, load_frozen, read_states
from tests.m3agiqa.golden import CPU, close
from tests.m3agiqa.oracle import Oracle
from tests.m3agiqa.train.conftest import MakeData

SHAPE = Shape(**{**vars(TINY), "hidden": 64, "ffn": 96, "layers": 1, "vision_layers": 1, "queries": 4})
SETTINGS: dict[str, Any] = {
    "model": "set below",
    "rank": 4,
    "context": 400,
    "steps": 4,
    "evaluate_every": 2,
    "learning_rate": 5e-3,
}


class Lab:
    def __init__(self, folder: Path) -> None:
        self.data = folder
        self.home = folder.parent
        self.base = self.home / "base"
        write_base(self.base, SHAPE, train_tokenizer(["an image"], SHAPE.vocab), seed=0, dtype=torch.float32)
        asked = ModelProfile.load("mini").aspects[Aspect.QUALITY]
        self.profile(adapter="to/come")
        made = [
            ConversationRecord.for_training(entry.name, entry.name, entry.prompt, "It is dull.", 2, asked)
            for entry in load_data(folder).entries
        ]
        write_conversations(folder / "train.json", made[:3])
        write_conversations(folder / "val.json", made[3:])

    def profile(self, adapter: str) -> None:
        """A profile with a head, and perhaps an adapter, that does not exist yet."""
        part = ModelProfile.load("mini").aspects[Aspect.QUALITY].model_dump() | {"adapter": adapter, "head": "to/come"}
        content = {"name": "lab", "base": str(self.base), "aspects": {"quality": part}}
        (self.home / "lab.yaml").write_text(yaml.safe_dump(content))

    def lessons(self) -> ConversationDataset:
        tokenizer = ConversationTokenizer.from_file(self.base / "tokenizer.json", SHAPE.queries)
        settings = FineTuning.model_validate(SETTINGS)
        return ConversationDataset(
            load_data(self.data), read_conversations(self.data / "train.json"), tokenizer, Slicing(), settings
        )

    def finetune(self, run: str, *arguments: str, **changes: Any) -> int:
        config = self.home / "finetune.yaml"
        config.write_text(yaml.safe_dump({**SETTINGS, "model": str(self.home / "lab.yaml"), **changes}))
        places = ["--config", str(config), "--run", str(self.home / run), "--device", "cpu"]
        return main(["finetune", str(self.data), *places, *arguments])

    def adapter(self, run: str) -> dict[str, torch.Tensor]:
        return load_file(self.home / run / "adapter" / "adapter_model.safetensors")

    def losses(self, run: str, step: int) -> list[float]:
        state = json.loads((self.home / run / f"checkpoint-{step}" / "trainer_state.json").read_text())
        return [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]


@pytest.fixture
def lab(make_data: MakeData) -> Lab:
    return Lab(make_data(4))


def test_an_adapter_learns_and_loads_in_peft_and_in_ours(lab: Lab) -> None:
    # when
    assert lab.finetune("run", steps=8) == 0
    # then validation improved
    losses = lab.losses("run", 8)
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    # and plain peft takes the adapter
    folder = lab.home / "run" / "adapter"
    trainee = Trainee.load(lab.base, CPU, torch.float32)
    plain = PeftModel.from_pretrained(trainee, folder).eval()  # type: ignore[arg-type]
    loaded = {key: tensor for key, tensor in plain.state_dict().items() if "lora_B" in key}
    assert loaded
    assert all(tensor.abs().max() > 0 for tensor in loaded.values())
    # and ours, with the same states as peft's
    write_head(lab.home / "head.safetensors", SHAPE, seed=1)
    network = load_network(
        lab.base,
        {Aspect.QUALITY: folder},
        {Aspect.QUALITY: lab.home / "head.safetensors"},
        device=CPU,
        dtype=torch.float32,
    )
    tower = network.towers[Aspect.QUALITY].state_dict()
    ours = lab.adapter("run")
    assert torch.equal(tower["resampler.query"], ours["base_model.model.resampler.query"])
    assert not torch.equal(tower["resampler.query"], load_file(lab.base / "model.safetensors")["resampler.query"])
    embeddings = torch.randn(7, SHAPE.hidden, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = plain.base_model.model.llm.model(inputs_embeds=embeddings[None]).last_hidden_state[0]
    assert close(theirs, Oracle(lab.base, folder).states(embeddings), 1e-5)


def test_what_is_trained_is_what_scores(lab: Lab) -> None:
    """An image's whole conversation, its slices included, gives the same states in training and in scoring."""
    # given
    assert lab.finetune("run") == 0
    lab.profile(adapter=str(lab.home / "run" / "adapter"))
    profile = for_one_aspect(ModelProfile.load(str(lab.home / "lab.yaml")), Aspect.QUALITY)
    lesson = lab.lessons()[0]
    name = lab.lessons().conversations[0].image
    # when
    engine = load_frozen(profile, hub.resolve(profile), "cpu")
    prompt = load_data(lab.data).entries[0].prompt
    [ours] = read_states(engine, [read_job(lab.data / "images" / name, prompt, (Aspect.QUALITY,))], ["It is dull."])
    trainee = Trainee.load(lab.base, CPU, torch.float32)
    model = PeftModel.from_pretrained(trainee, lab.home / "run" / "adapter").eval().base_model.model  # type: ignore[arg-type]
    with torch.inference_mode():
        embedded = model.embed(lesson["input_ids"], lesson["slices"], lesson["bounds"])
        theirs = model.llm.model(inputs_embeds=embedded).last_hidden_state[0]
    # then
    assert isinstance(ours, torch.Tensor)
    # The lesson goes on with the word.
    assert len(theirs) > len(ours)
    assert close(ours, theirs[: len(ours)], 1e-4)


def test_a_killed_run_ends_as_an_unbroken_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    assert lab.finetune("whole") == 0
    step, calls = Trainer.training_step, []

    def killed(self: Trainer, *arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "training_step", killed)
    assert lab.finetune("broken") == 130
    assert not (lab.home / "broken" / "adapter").exists()

    assert lab.finetune("broken") == 0

    # Two of three steps were kept, and the fourth came at last.
    assert len(calls) == 6
    ours, theirs = lab.adapter("broken"), lab.adapter("whole")
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-6) for key in theirs)


@pytest.mark.parametrize("saved", [["embed_tokens", "resampler", "vpm"], ["resampler"], []])
def test_only_lora_and_saved_modules_are_trained(lab: Lab, saved: list[str]) -> None:
    assert lab.finetune("run", saved=saved, steps=1, evaluate_every=1) == 0

    brought = {key for key in lab.adapter("run") if "lora" not in key}
    parts = {"embed_tokens": "llm.model.embed_tokens.", "resampler": "resampler.", "vpm": "vpm."}
    for module, prefix in parts.items():
        assert any(key.startswith(f"base_model.model.{prefix}") for key in brought) == (module in saved)
    config = json.loads((lab.home / "run" / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 4)
    assert config["modules_to_save"] == (saved or None)


def test_the_assistants_turns_are_what_is_learned(lab: Lab) -> None:
    tokenizer, lessons = lab.lessons().tokenizer, lab.lessons()

    [ids], [labels] = lessons[0]["input_ids"].tolist(), lessons[0]["labels"].tolist()

    learned = [token for token, label in zip(ids, labels, strict=True) if label != -100]
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    eot = tokenizer.eos_ids[1]
    assert learned.count(eot) == 2
    middle = learned.index(eot)
    assert tokenizer.decode(learned[:middle]) == "It is dull."
    assert tokenizer.decode(learned[middle + 1 :]) == "fair"


def test_the_defaults_are_the_originals() -> None:
    settings = FineTuning.load("finetune")

    assert settings == FineTuning(model="published")
    assert (settings.rank, settings.learning_rate, settings.steps, settings.warmup) == (64, 1e-6, 22_000, 0.01)


def test_a_finished_run_is_not_trained_again_but_can_be_made_longer(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given
    assert lab.finetune("run", steps=2) == 0
    before = (lab.home / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    # when the same is asked for again
    with monkeypatch.context() as patch:
        patch.setattr(Trainee, "load", None)
        assert lab.finetune("run", steps=2) == 0
    # then it says so
    assert "this run is finished" in capsys.readouterr().out
    assert (lab.home / "run" / "adapter" / "adapter_model.safetensors").read_bytes() == before
    # and more steps go on from there
    assert lab.finetune("run", steps=4) == 0
    assert (lab.home / "run" / "adapter" / "adapter_model.safetensors").read_bytes() != before


@pytest.mark.parametrize("change", ["conversations", "image", "configuration"])
def test_another_runs_adapter_is_not_given_out(lab: Lab, capsys: pytest.CaptureFixture[str], change: str) -> None:
    # given a finished run
    assert lab.finetune("run", steps=1) == 0
    before = (lab.home / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    # when something else is to be learned there
    name = lab.lessons().conversations[0].image
    if change == "conversations":
        text = (lab.data / "train.json").read_text()
        (lab.data / "train.json").write_text(text.replace("It is dull.", "It shines."))
    elif change == "image":
        (lab.data / "images" / name).write_bytes((lab.data / "images" / name).read_bytes() + b"more")
    more = {"learning_rate": 1e-4} if change == "configuration" else {}
    # then it is refused
    assert lab.finetune("run", steps=1, **more) == 1
    err = capsys.readouterr().err
    assert f"holds a run with another {'learning_rate' if more else 'data'}; name another folder" in err
    assert (lab.home / "run" / "adapter" / "adapter_model.safetensors").read_bytes() == before


def test_a_cut_checkpoint_says_what_to_delete(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    # given a run with two checkpoints, of which the last is cut in one file or another
    assert lab.finetune("run", steps=4) == 0
    last = lab.home / "run" / "checkpoint-4"
    for name in ("optimizer.pt", "adapter_model.safetensors", "trainer_state.json"):
        whole = (last / name).read_bytes()
        (last / name).write_bytes(whole[: len(whole) // 2])
        capsys.readouterr()
        # then it is one line
        assert lab.finetune("run", steps=4) == 1
        assert f"error: {last} is damaged: delete that folder" in capsys.readouterr().err
        (last / name).write_bytes(whole)
    # and without it the run goes on from the one before
    shutil.rmtree(last)
    assert lab.finetune("run", steps=4) == 0
    assert last.is_dir()


def test_where_there_is_no_room_the_same_command_goes_on_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a disk that is full when the second checkpoint is written
    saved = torch.save

    def full(state: Any, file: Any, *rest: Any, **more: Any) -> None:
        if "checkpoint-4" in str(file):
            Path(file).write_bytes(b"the beginning")
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
        saved(state, file, *rest, **more)

    monkeypatch.setattr(torch, "save", full)
    assert lab.finetune("run") == 1
    assert "; what was done so far is kept, and the same command goes on from there" in capsys.readouterr().err
    # When there is room again
    monkeypatch.setattr(torch, "save", saved)
    # Then it goes on from the first
    assert (lab.home / "run" / "checkpoint-2").is_dir()
    assert lab.finetune("run") == 0
    assert len(lab.losses("run", 4)) == 2
