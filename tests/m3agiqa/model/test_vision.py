import pytest
import torch

from m3agiqa.model.resampler import sincos_2d
from m3agiqa.model.slicing import Slicing
from m3agiqa.model.vision import position_ids
from tests.m3agiqa.golden import Case, close, every_case


@every_case
@torch.inference_mode()
def test_tower_and_resampler_give_the_originals_features(case: Case) -> None:
    tower, image, stages = case.network.towers[case.aspect], case.image, case.stages
    slices = Slicing().cut(image.rgb, Slicing().grid(*image.rgb.size, 9))

    features = tower.encode(slices.patches)

    if "gen.vpm" in stages:
        assert close(features, stages["gen.vpm"])
    if "gen.vpm.0" in stages:
        assert close(features[0], stages["gen.vpm.0"])
        assert close(features[-1], stages["gen.vpm.last"])
    expected = stages["gen.resampler"] if "gen.resampler" in stages else stages["score.resampler"]
    assert close(tower([slices])[0], expected)


@every_case
@torch.inference_mode()
def test_scoring_pass_sees_the_originals_embeddings(case: Case) -> None:
    image = case.image
    slices = Slicing().cut(image.rgb, Slicing().grid(*image.rgb.size, case.facts["cfg"]["max_slice_nums"]))

    assert close(case.network.towers[case.aspect]([slices])[0], case.stages["score.resampler"])


def transformers_ids(length: int) -> torch.Tensor:
    """As current transformers compute them: multiples of the step instead of a range by it."""
    fractions = torch.clamp(torch.arange(length, dtype=torch.float32) * (1.0 / torch.tensor(length)), max=1.0 - 1e-6)
    return torch.bucketize(fractions, torch.arange(1 / 70, 1.0, 1 / 70), right=True)


@pytest.mark.parametrize("length", [959, 966, 968, 980, 986, 994, 1001, 1010, 1022, 1025, 1036, 1050, 1080])
def test_position_ids_are_not_those_of_current_transformers(length: int) -> None:
    ids = position_ids(length)

    assert ids.shape == (length,)
    assert bool((ids.diff() >= 0).all())
    assert int((ids - transformers_ids(length)).abs().max()) == 1


def test_position_ids_are_one_bucket_a_patch_at_the_tables_length() -> None:
    assert position_ids(1).tolist() == [0]
    assert position_ids(35).tolist() == list(range(0, 70, 2))


def test_positions_have_columns_in_the_first_half() -> None:
    table = sincos_2d(2, 3, 8)

    assert table.shape == (6, 8)
    assert torch.allclose(table[0, :4], table[3, :4])
    assert torch.allclose(table[0, 4:], table[1, 4:])
    assert torch.allclose(table[4, :2], torch.sin(torch.tensor([1.0, 0.01])))
