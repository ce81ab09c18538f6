"""The GPU's own paths against the plain ones. They need nothing but torch's GPU build and Triton:

pytest --noconftest -m gpu tests/m3agiqa/engine/test_gpu.py
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Sequence

import pytest
import torch
from PIL import Image

from m3agiqa.bench.random_weights import head_tensors
from m3agiqa.bench.synthetic import random_network
from m3agiqa.contract import Aspect
from m3agiqa.engine import attention, ops
from m3agiqa.engine.cache import PAGE_STEPS, Layout
from m3agiqa.engine.decoding import ModelRunner
from m3agiqa.engine.loading import Network, load_network
from m3agiqa.engine.lora import Groups, LowRank
from m3agiqa.engine.scoring import Engine
from m3agiqa.engine.session import Session
from m3agiqa.images import DecodedImage, open_image
from m3agiqa.jobs import Job
from m3agiqa.model import norms
from m3agiqa.model import slstm as recurrence
from m3agiqa.model.float8 import Float8Weight
from m3agiqa.model.head import Head
from m3agiqa.model.shape import Shape
from m3agiqa.profile import Describe
from tests.m3agiqa.golden import BUNDLED, Case, every_case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

DEVICE = torch.device("cuda", 0)
SHAPE = Shape(
    vocab=2000,
    hidden=256,
    layers=3,
    heads=8,
    kv_heads=2,
    ffn=512,
    vision_hidden=64,
    vision_layers=2,
    vision_heads=2,
    vision_ffn=128,
    queries=16,
    rank=8,
    head_width=64,
)


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """float32 products in float32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first.cpu().float() - second.cpu().float()).abs().max())


def elsewhere(found: Sequence[list[int]], expected: Sequence[list[int]]) -> int:
    """Searches that wrote something else: a batch of another size rounds otherwise, which decides between near ties."""
    return sum(one != other for one, other in zip(found, expected, strict=True))


def image(width: int, height: int, seed: int) -> DecodedImage:
    noise = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    out = io.BytesIO()
    Image.fromarray(noise.numpy()).resize((width, height)).save(out, "PNG")
    return open_image(out.getvalue())


def test_elementwise_kernels_are_the_plain_operations() -> None:
    gate_up, table = torch.randn(5, 600), torch.randn(50, 300)
    ids = torch.tensor([3, 49, 0, 3])
    qkv, frequencies = torch.randn(7, 12 * 32), 1 / 10000 ** (torch.arange(0, 32, 2) / 32)
    positions, slots = torch.randint(0, 900, (7,)), torch.randperm(20)[:7]
    plain = [torch.zeros(20, 2, 32) for _ in range(2)]
    on_gpu = [tensor.cuda() for tensor in plain]

    queries = ops.rotate_and_store(qkv, positions, frequencies, slots, *plain)
    rotated = ops.rotate_and_store(qkv.cuda(), positions.cuda(), frequencies.cuda(), slots.cuda(), *on_gpu)

    assert difference(ops.swiglu(gate_up.cuda()), ops.swiglu(gate_up)) < 1e-5
    assert difference(ops.lookup(ids.cuda(), table.pin_memory()), ops.lookup(ids, table)) == 0
    assert difference(rotated, queries) < 1e-5
    assert difference(on_gpu[0], plain[0]) < 1e-5
    assert difference(on_gpu[1], plain[1]) == 0


@pytest.mark.parametrize("rows", [(3, 3, 3), (70, 1, 40), (0, 5, 0)])
def test_low_rank_changes_are_the_plain_ones(rows: tuple[int, ...]) -> None:
    rank, out = 24, 160
    groups = Groups.from_counts([(adapter, count) for adapter, count in enumerate(rows) if count], len(rows))
    output, b = torch.randn(sum(rows), out + len(rows) * rank), torch.randn(len(rows), rank, out)
    kerneled = output.cuda()

    changed = LowRank(b.cuda()).added(kerneled, groups)

    assert difference(changed, LowRank(b).added(output, groups)) < 1e-4


def test_norms_are_the_plain_ones() -> None:
    states, change, layer = torch.randn(2, 5, 300), torch.randn(2, 5, 300), torch.nn.LayerNorm(300)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    on_gpu, twin = states.cuda(), copy.deepcopy(layer).cuda()
    with torch.inference_mode():
        root = norms.rms_norm(on_gpu, twin.weight, 1e-5), norms.rms_norm(states, layer.weight, 1e-5)
        summed = norms.layer_norm_of_sum(on_gpu, change.cuda(), twin), norms.layer_norm_of_sum(states, change, layer)

    assert difference(*root) < 1e-5
    assert difference(*summed) < 1e-5
    assert difference(on_gpu, states) < 1e-5


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.float16, 0.02)])
@torch.inference_mode()
def test_a_tower_is_the_plain_one(network: Network, dtype: torch.dtype, most: float) -> None:
    tower = network.towers[Aspect.QUALITY]
    patches = network.slicing.cut(image(300, 500, seed=1).rgb, network.slicing.grid(300, 500, 9)).patches

    plain = copy.deepcopy(tower).cpu().encode(patches)

    assert difference(copy.deepcopy(tower).to(dtype).encode(patches), plain) < most * float(plain.abs().max())


@pytest.mark.parametrize("tokens", [1, 9, 16, 17, 70])
def test_float8_products_are_the_plain_ones(tokens: int) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no float8")
    weight, states = Float8Weight.from_weight(torch.randn(272, 320)), torch.randn(tokens, 320, dtype=torch.float16)

    kerneled = Float8Weight(weight.values.cuda(), weight.scales.cuda()).product(states.cuda())

    plain = weight.product(states.float())
    assert difference(kerneled, plain) < 0.01 * float(plain.abs().max())


@pytest.mark.parametrize("heads", [8, 6])
def test_prefill_attention_by_slots_is_the_plain_one(heads: int) -> None:
    known, new, dim = [40, 3, 0, 129], [9, 1, 70, 40], 32
    keys, values = torch.randn(2, 900, 2, dim)
    slots = list(torch.randperm(900)[: sum(known) + sum(new)].split([a + b for a, b in zip(known, new, strict=True)]))
    queries = torch.randn(sum(new), heads, dim)

    kerneled = attention._BySlots(slots, new, DEVICE)(queries.cuda(), keys.cuda(), values.cuda())

    assert difference(kerneled, attention._Padded(slots, known, new)(queries, keys, values)) < 1e-5


@pytest.mark.parametrize("beams", [1, 3, 5])
@pytest.mark.parametrize("splits", [1, 4])
def test_decode_attention_is_the_plain_one(beams: int, splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3agiqa.engine.attention_kernels._MOST_SPLITS", splits)
    prompts, steps, kv_heads, dim = 4, 150, 2, 32
    keys, values = torch.randn(2, 9000, kv_heads, dim)
    layout = Layout(
        starts=torch.tensor([0, 100, 300, 700], dtype=torch.int32),
        lengths=torch.tensor([90, 3, 200, 64], dtype=torch.int32),
        pages=(1000 + torch.randperm(12).view(4, 3) * PAGE_STEPS * beams).to(torch.int32),
    )
    ancestors = torch.randint(0, beams, (prompts, steps, beams), dtype=torch.int32)
    queries = torch.randn(prompts * beams, 8, dim)
    for step in (1, 64, 65, 140):
        step = torch.tensor([step])
        plain = attention.decode_attention(queries, keys, values, layout, ancestors, step)
        moved = Layout(layout.starts.cuda(), layout.lengths.cuda(), layout.pages.cuda())
        kernel = attention.decode_attention(
            queries.cuda(), keys.cuda(), values.cuda(), moved, ancestors.cuda(), step.cuda()
        )
        assert difference(kernel, plain) < 1e-5


def test_recurrence_kernel_is_the_plain_loop() -> None:
    inputs, kernel, bias = torch.randn(19, 30, 4, 2, 32), torch.randn(2, 4, 32, 32) / 6, torch.randn(4, 2, 32)

    assert (
        difference(recurrence.slstm(inputs.cuda(), kernel.cuda(), bias.cuda()), recurrence.slstm(inputs, kernel, bias))
        < 1e-5
    )


def test_recurrence_kernel_is_near_the_plain_loop_where_it_need_not_be_exact() -> None:
    inputs, kernel, bias = torch.randn(19, 30, 4, 2, 128), torch.randn(2, 4, 128, 128) / 11, torch.randn(4, 2, 128)

    kerneled = recurrence.slstm(inputs.cuda(), kernel.cuda(), bias.cuda(), exact=False)

    assert difference(kerneled, recurrence.slstm(inputs, kernel, bias)) < 2e-3


def twin_heads(width: int) -> tuple[Head, Head]:
    """The same head on the CPU and on the GPU."""
    tensors = head_tensors(Shape(vocab=300, hidden=96, head_width=width), seed=0)
    state = {
        name.removeprefix("model."): tensors.read(name, torch.device("cpu"), torch.float32) for name in tensors.names()
    }
    lm_head = torch.randn(300, 96) / 10
    return Head(state, lm_head), Head(state, lm_head.cuda())


@pytest.mark.parametrize("width", [64, 512])
def test_a_head_by_kernels_is_the_plain_one(width: int) -> None:
    states, hidden, lengths = torch.randn(3, 150, width), torch.randn(3, 150, 96), torch.tensor([150, 7, 64])

    plain, kerneled = twin_heads(width)

    for block, twin in zip(plain.blocks, kerneled.blocks, strict=True):
        assert difference(twin(states.cuda()), block(states)) < 1e-4
    assert difference(kerneled(hidden.cuda(), lengths.cuda()), plain(hidden, lengths)) < 1e-4


@pytest.mark.parametrize("width", [64, 512])
def test_a_heads_scores_by_kernels_are_near_the_plain_ones_where_they_need_not_be_exact(width: int) -> None:
    hidden, lengths = torch.randn(16, 150, 96), torch.randint(1, 151, (16,))

    plain, kerneled = twin_heads(width)

    scores = plain(hidden, lengths)
    assert scores.max() - scores.min() > 0.5
    near = kerneled(hidden.cuda(), lengths.cuda(), exact=False)
    assert 1e-4 < difference(near, scores) < 0.02
    # And what is exact stays so after what was not.
    assert difference(kerneled(hidden.cuda(), lengths.cuda()), scores) < 1e-4


@every_case
def test_golden_cases_in_float32(case: Case) -> None:
    network = load_network(
        case.model / "base",
        {case.aspect: case.model / "adapters" / case.aspect},
        {case.aspect: case.model / "heads" / f"{case.aspect}.ckpt"},
        device=DEVICE,
        dtype=torch.float32,
    )

    score = Engine(network, case.profile, DEVICE, max_batch=2).run([Job(case.image, case.prompt)])[0]

    assert score.aspects[case.aspect].score == pytest.approx(case.facts["raw_score"], abs=1e-3)
    assert score.aspects[case.aspect].description == case.facts["result"]["description"]


@pytest.fixture(scope="module")
def network() -> Network:
    return random_network(SHAPE, device=DEVICE, dtype=torch.float32)


@pytest.mark.parametrize("beams", [1, 3])
@torch.inference_mode()
def test_captured_steps_write_what_plain_steps_do(network: Network, beams: int) -> None:
    # Given prompts of several adapters and lengths, end tokens that come often, and steps captured for up to 12
    llama = network.language
    generator = torch.Generator().manual_seed(1)
    adapters = [0] * 11 + [1] * 3 + [2] * 7
    prompts = [torch.randn(5 + 7 * row, SHAPE.hidden, generator=generator).cuda() for row in range(len(adapters))]
    describe = Describe(num_beams=beams, max_new_tokens=150)
    runner = ModelRunner(llama, describe, range(0, SHAPE.vocab, 60), most=12)
    # When batches run by graphs, a second one after the first, and without
    captured = [Session(runner, prompts, adapters).generate() for _ in range(2)]
    fewer = Session(runner, prompts[9:13], adapters[9:13]).generate()
    runner.captured.clear()
    plain = Session(runner, prompts, adapters).generate()
    # Then they write the same, though prompts finished at different times
    assert captured[0] == captured[1]
    assert elsewhere(captured[0], plain) <= 1
    assert elsewhere(fewer, plain[9:13]) <= 1
    assert len({len(ids) for ids in plain}) > 3


@pytest.mark.parametrize("beams", [1, 3])
@torch.inference_mode()
def test_what_captured_steps_wrote_counts_as_read(network: Network, beams: int) -> None:
    # given prompts of several adapters and lengths, and end tokens that come often
    llama, generator = network.language, torch.Generator().manual_seed(2)
    adapters = [0] * 5 + [1] * 3 + [2] * 4
    prompts = [torch.randn(5 + 7 * row, SHAPE.hidden, generator=generator).cuda() for row in range(len(adapters))]
    runner = ModelRunner(llama, Describe(num_beams=beams, max_new_tokens=150), range(0, SHAPE.vocab, 60), most=5)
    # when captured steps continue them, and they are read on behind what was written
    session = Session(runner, prompts, adapters)
    written = [ids[:-1] for ids in session.generate()]
    behind = [torch.randn(9, SHAPE.hidden, generator=generator).cuda() for _ in prompts]
    known = [len(prompt) + len(ids) for prompt, ids in zip(prompts, written, strict=True)]
    found = session.read(range(len(prompts)), known, behind)
    # then their states are those of the whole, read at once
    whole = []
    for prompt, ids, adapter, more in zip(prompts, written, adapters, behind, strict=True):
        embedded = torch.nn.functional.embedding(torch.tensor(ids, dtype=torch.int64), llama.tables[adapter].cpu())
        whole.append(torch.cat([prompt, embedded.cuda(), more]))
    for one, other in zip(found, Session(runner, whole, adapters).states, strict=True):
        assert difference(one, other) < 1e-3
    assert len({len(ids) for ids in written}) > 3


def test_float16_alone_and_in_a_batch_of_mixed_sizes() -> None:
    network = random_network(SHAPE, device=DEVICE, dtype=torch.float16)
    profile = Case(BUNDLED / "mini_q_512x512").profile
    parts = dict.fromkeys(Aspect, profile.aspects[Aspect.QUALITY])
    profile = profile.model_copy(update={"aspects": parts, "describe": Describe(max_new_tokens=20)})
    engine = Engine(network, profile, DEVICE, max_batch=32)
    sizes = [(512, 512), (448, 448), (1024, 768), (300, 900), (64, 64), (1024, 1024)]
    jobs = [Job(image(*sizes[seed % len(sizes)], seed), "a prompt " * (seed % 5)) for seed in range(32)]

    together = engine.run(jobs)

    same = [
        (alone.aspects[aspect], outcome.aspects[aspect])
        for job, outcome in zip(jobs[:12], together, strict=False)
        for alone in engine.run([job])
        for aspect in Aspect
    ]
    # Another description is another input: scores are compared where it is the same.
    compared = [(one.score, other.score) for one, other in same if one.description == other.description]
    assert len(compared) >= len(same) / 2
    assert max(abs(one - other) for one, other in compared) <= 0.02
    assert len({round(one, 2) for one, _ in compared}) > 3
