import pytest
import torch
from xlstm import (
    FeedForwardConfig,
    mLSTMBlockConfig,
    mLSTMLayerConfig,
    sLSTMBlockConfig,
    sLSTMLayerConfig,
    xLSTMBlockStack,
    xLSTMBlockStackConfig,
)

from m3agiqa.bench.random_weights import TINY, write_head
from m3agiqa.errors import CheckpointError
from m3agiqa.model.checkpoints import read_head
from m3agiqa.model.head import Head, fuse
from m3agiqa.model.precision import products
from m3agiqa.model.slstm import recurrent_weights
from tests.m3agiqa.golden import BUNDLED, Case, close

GOLDEN_HEAD = BUNDLED / "models/mini_s0/heads/quality.ckpt"


def vanilla(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A CUDA-layout checkpoint in the vanilla backend's layout."""
    cell = "xlstm_pooler.xlstm_stack.blocks.1.xlstm.slstm_cell."
    heads, dim, _ = state[cell + "_recurrent_kernel_"].shape
    kernel = state[cell + "_recurrent_kernel_"].view(heads, dim, 4, dim).permute(0, 2, 3, 1).reshape(heads, -1, dim)
    bias = state[cell + "_bias_"].view(heads, 4, dim).permute(1, 0, 2).reshape(-1)
    return {**state, cell + "_recurrent_kernel_": kernel, cell + "_bias_": bias}


def package_stack(state: dict[str, torch.Tensor], width: int, context: int) -> xLSTMBlockStack:
    """The xlstm package's own stack, vanilla backend, with a checkpoint's weights."""
    stack = xLSTMBlockStack(
        xLSTMBlockStackConfig(
            mlstm_block=mLSTMBlockConfig(
                mlstm=mLSTMLayerConfig(conv1d_kernel_size=4, qkv_proj_blocksize=4, num_heads=4)
            ),
            slstm_block=sLSTMBlockConfig(
                slstm=sLSTMLayerConfig(backend="vanilla", num_heads=4, conv1d_kernel_size=4),
                feedforward=FeedForwardConfig(proj_factor=1.3, act_fn="gelu"),
            ),
            context_length=context,
            num_blocks=4,
            embedding_dim=width,
            slstm_at=[1],
        )
    )
    prefix = "xlstm_pooler.xlstm_stack."
    weights = {key.removeprefix(prefix): tensor.float() for key, tensor in state.items() if key.startswith(prefix)}
    stack.load_state_dict(weights)
    return stack.eval()


@torch.inference_mode()
def test_every_stage_is_the_originals() -> None:
    case = Case(BUNDLED / "mini_q_512x512")
    stages, head = case.stages, case.network.heads[case.aspect]
    states = head.projection(stages["score.last_hidden"])

    assert close(states, stages["score.W"])
    for index, block in enumerate(head.blocks):
        states = block(states)
        assert close(states, stages[f"score.xlstm_block{index}"])
    assert close(head.post_blocks_norm(states), stages["score.xlstm"])
    raw = head(stages["score.last_hidden"], torch.tensor([states.shape[1]]))
    # The fused projection is nearer float64 than the original's two steps are.
    assert abs(float(raw[0]) - case.facts["raw_score"]) < 1e-4


@torch.inference_mode()
def test_both_backends_layouts_score_the_same() -> None:
    state = read_head(GOLDEN_HEAD)
    lm_head = torch.randn(600, 48, generator=torch.Generator().manual_seed(0))
    hidden = torch.randn(2, 30, 48, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([30, 17])

    scores = [Head(layout, lm_head)(hidden, lengths) for layout in (state, vanilla(state))]

    assert close(scores[0], scores[1], 1e-6)
    assert not close(scores[0][:1], scores[0][1:], 1e-4)


@pytest.mark.parametrize("width", [64, 512])
@torch.inference_mode()
def test_scores_are_those_of_the_xlstm_package(tmp_path, width: int) -> None:
    # Given a head of random weights
    shape = TINY.__class__(**{**vars(TINY), "head_width": width})
    write_head(tmp_path / "head.safetensors", shape, seed=3, dtype=torch.float32)
    state = read_head(tmp_path / "head.safetensors")
    lm_head = torch.randn(shape.vocab, 32, generator=torch.Generator().manual_seed(0)) / 32**0.5
    hidden = torch.randn(1, 40, 32, generator=torch.Generator().manual_seed(1))
    # When the package's stack and ours run over the same states
    projected = hidden @ lm_head.T @ state["W.weight"].T + state["W.bias"]
    expected = package_stack(vanilla(state), width, 40)(projected)
    head = Head(state, lm_head)
    actual = head.projection(hidden)
    for block in head.blocks:
        actual = block(actual)
    # Then they agree
    assert close(head.post_blocks_norm(actual), expected)


@torch.inference_mode()
def test_padding_and_neighbours_do_not_change_a_score() -> None:
    head = Head(read_head(GOLDEN_HEAD), torch.randn(600, 48, generator=torch.Generator().manual_seed(0)))
    hidden = torch.randn(3, 25, 48, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([25, 11, 4])

    together = head(hidden, lengths)

    for row, length in enumerate(lengths.tolist()):
        alone = head(hidden[row : row + 1, :length], lengths[row : row + 1])
        assert abs(float(alone[0] - together[row])) < 1e-5


def test_projection_fused_through_a_float16_output_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(8, 20_000, generator=generator)
    lm_head = torch.randn(20_000, 16, generator=generator).half()

    assert close(fuse(projection, lm_head), (projection.double() @ lm_head.double()).float(), 1e-6)


@torch.inference_mode()
def test_products_kept_for_a_gpu_follow_the_dtype_asked_for() -> None:
    # given a block that was asked for float32 before
    block = Head(read_head(GOLDEN_HEAD), torch.randn(600, 48)).blocks[0]
    states = torch.randn(7, block.q_proj.weight.shape[0] * block.q_proj.weight.shape[2])
    exact, _ = block._fused(torch.float32)
    assert block._fused(torch.float32)[0] is exact
    # when float16 may be used
    halves = block._fused(torch.float16)
    # then it is, for the same products
    assert {each.dtype for each in halves} == {torch.float16}
    expected = torch.cat([block.q_proj(states), block.k_proj(states)], dim=-1)
    for kept, tolerance in ((exact, 1e-5), (halves[0].float(), 1e-2)):
        assert torch.allclose(
            torch.nn.functional.linear(states, kept)[:, : expected.shape[1]], expected, atol=tolerance
        )


@torch.inference_mode()
def test_a_heads_products_are_as_exact_as_asked_whatever_was_asked_before() -> None:
    # given a head that tells what a GPU would multiply in
    head = Head(read_head(GOLDEN_HEAD), torch.randn(600, 48))
    seen: list[bool] = []
    head.projection.register_forward_hook(lambda *_: seen.append(torch.backends.cuda.matmul.allow_tf32))
    hidden, lengths = torch.randn(2, 9, 48), torch.tensor([9, 4])
    with products(exact=False):
        # when it scores in turns, and once fails
        for exact in (False, True, False):
            head(hidden, lengths, exact=exact)
        head(hidden, lengths)
        with pytest.raises(RuntimeError):
            head(hidden[..., :3], lengths, exact=True)
        after = torch.backends.cuda.matmul.allow_tf32
    # then each time so, float32 unless something else is said, and the process is as it was
    assert seen == [True, False, True, False]
    assert after


def test_a_kernel_of_neither_layout_is_refused() -> None:
    with pytest.raises(CheckpointError, match="neither backend's layout"):
        recurrent_weights(torch.zeros(4, 8, 24), torch.zeros(128))
