from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from m3agiqa import hub
from m3agiqa.contract import Aspect, Failure
from m3agiqa.engine.scoring import Engine
from m3agiqa.errors import ConfigError, UsageError
from m3agiqa.images import noise_image
from m3agiqa.jobs import Job
from m3agiqa.profile import ModelProfile
from m3agiqa.train.head.states import for_one_aspect, load_frozen, read_states

JOBS = [
    Job(noise_image(96, 64, 1), "a red fox", (Aspect.QUALITY,)),
    Job(noise_image(64, 64, 2), "word " * 3000, (Aspect.QUALITY,)),
    Job(noise_image(500, 400, 3), "", (Aspect.QUALITY,)),
]


@pytest.mark.parametrize("given", [None, ["sharp", "none", "dull"]])
@torch.inference_mode()
def test_states_are_those_that_scoring_gives_its_head(given: list[str] | None) -> None:
    # given
    profile = ModelProfile.load("mini")
    scoring = Engine.load(profile, hub.resolve(profile), "cpu")
    part = for_one_aspect(profile, Aspect.QUALITY)
    # when
    frozen = load_frozen(part, hub.resolve(part), "cpu")
    found = read_states(frozen, JOBS, given)
    # then the head scores of them what it scores in a batch
    assert frozen.network.heads == {}
    assert isinstance(found[1], Failure)
    assert found[1].code == "prompt_too_long"
    states = [each for each in found if isinstance(each, torch.Tensor)]
    lengths = torch.tensor([len(each) for each in states])
    raw = scoring.network.heads[Aspect.QUALITY](pad_sequence(states, batch_first=True), lengths)
    described = [
        Job(job.image, job.prompt, job.aspects, descriptions={} if given is None else {Aspect.QUALITY: text})
        for job, text in zip(JOBS, given or [""] * 3, strict=True)
    ]
    outcomes = scoring.run([described[0], described[2]])
    assert raw.clamp(0, 5).tolist() == pytest.approx(
        [each.aspects[Aspect.QUALITY].score for each in outcomes], abs=1e-3
    )


def test_there_is_nothing_to_learn_from_random_weights() -> None:
    profile = for_one_aspect(ModelProfile.load("random"), Aspect.QUALITY)

    with pytest.raises(ConfigError, match="random weights"):
        load_frozen(profile, hub.resolve(profile), "cpu")


def test_an_aspect_the_model_lacks_is_named() -> None:
    profile = for_one_aspect(ModelProfile.load("mini"), Aspect.QUALITY)

    with pytest.raises(UsageError, match="has no authenticity, only quality"):
        for_one_aspect(profile, Aspect.AUTHENTICITY)
