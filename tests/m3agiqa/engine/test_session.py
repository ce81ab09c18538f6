from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import pytest
import torch

from m3agiqa.bench.random_weights import write_adapter, write_base, write_head
from m3agiqa.cutting import Cutter
from m3agiqa.engine import decoding
from m3agiqa.engine import session as session_module
from m3agiqa.engine.attention import PrefillAttention
from m3agiqa.engine.cache import PAGE_STEPS, KVCache
from m3agiqa.engine.decoding import ModelRunner
from m3agiqa.engine.encoding import EncodedImage
from m3agiqa.engine.loading import Network, load_network
from m3agiqa.engine.lora import Groups
from m3agiqa.engine.session import Session
from m3agiqa.errors import ScoringOutOfMemory
from m3agiqa.model.language import LlamaShape
from m3agiqa.model.shape import Shape
from m3agiqa.model.slicing import Slicing
from m3agiqa.model.writing import train_tokenizer
from m3agiqa.profile import Describe
from tests.m3agiqa.golden import CPU, Case, close, every_case
from tests.m3agiqa.oracle import Oracle

SHAPE = Shape(
    vocab=400,
    hidden=64,
    layers=3,
    heads=4,
    kv_heads=2,
    ffn=96,
    vision_hidden=16,
    vision_layers=1,
    vision_heads=1,
    vision_ffn=16,
    queries=2,
    rank=4,
    head_width=32,
    saved=("embed_tokens",),
)
ASPECTS = ("quality", "correspondence", "authenticity")
#: Share of a prompt: some times what batches and CPUs round differently, and far less than what tells prompts apart.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_base(folder / "base", SHAPE, train_tokenizer(["a"], SHAPE.vocab), seed=0, dtype=torch.float32)
    for number, aspect in enumerate(ASPECTS, start=1):
        write_adapter(folder / aspect, SHAPE, seed=number, dtype=torch.float32)
    write_head(folder / "head.safetensors", SHAPE, seed=9)
    return folder


@pytest.fixture(scope="module")
def network(folder: Path) -> Network:
    return load_network(
        folder / "base",
        {aspect: folder / aspect for aspect in ASPECTS},
        dict.fromkeys(ASPECTS, folder / "head.safetensors"),
        device=CPU,
        dtype=torch.float32,
    )


@pytest.fixture(scope="module")
def oracles(folder: Path) -> list[Oracle]:
    return [Oracle(folder / "base", folder / aspect) for aspect in ASPECTS]


def sequences(lengths: Sequence[int], hidden: int = SHAPE.hidden) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(length, hidden, generator=generator) for length in lengths]


def begin(
    network: Network,
    prompts: Sequence[torch.Tensor],
    adapters: Sequence[int],
    describe: Describe,
    eos_ids: Sequence[int] = (7,),
) -> Session:
    return Session(ModelRunner(network.language, describe, eos_ids, most=8), prompts, adapters)


def writes(oracle: Oracle, ids: list[int], prompt: torch.Tensor, describe: Describe, eos_ids: list[int]) -> bool:
    """Whether transformers generates `ids`, from the prompt or, as rounding decides near ties, from one next to it."""
    draw = torch.Generator().manual_seed(0)
    near = (prompt * (1 + ROUNDING * torch.randn(prompt.shape, generator=draw)) for _ in range(10))
    return any(oracle.generate(each, describe, eos_ids) == ids for each in chain([prompt], near))


@every_case
@pytest.mark.parametrize("kind", ["gen", "gen_greedy", "gen_greedy_norep"])
@torch.inference_mode()
def test_generated_ids_are_the_originals(case: Case, kind: str) -> None:
    prompt = case.embedded(case.facts["gen_input_ids"], case.facts["gen_image_bound"], max_slices=9)

    ends = case.network.tokenizer.eos_ids
    generated = begin(case.network, [prompt], [0], case.describe(kind), eos_ids=ends).generate()[0]

    expected = case.facts["gen_ids"][kind]
    if kind == "gen":  # the older beam search wrote eos[0] whichever end token came
        assert generated[:-1] == expected[:-1]
        assert (generated[-1] in ends) == (expected[-1] in ends)
        assert generated[-1] == expected[-1] or expected[-1] == ends[0]
    else:
        assert generated == expected


@every_case
@torch.inference_mode()
def test_states_of_a_conversation_are_the_originals(case: Case) -> None:
    ids = case.facts["score_input_ids_truncated"]
    embedded = case.embedded(ids, case.facts["score_image_bound"], case.facts["cfg"]["max_slice_nums"])

    states = begin(case.network, [embedded], [0], Describe()).states[0]

    stages = case.stages
    if "score.last_hidden" in stages:
        assert close(states, stages["score.last_hidden"][0])
    else:
        assert close(states[-32:], stages["score.last_hidden.tail"][0])


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
@pytest.mark.parametrize("penalty", [1.0, 1.2])
@torch.inference_mode()
def test_a_mixed_batch_generates_what_transformers_does_for_each_alone(
    network: Network, oracles: list[Oracle], beams: int, penalty: float
) -> None:
    # Given prompts of many lengths under three adapters, and end tokens that come often
    prompts, adapters = sequences([5, 40, 17, 3, 28, 9, 61]), [0, 0, 0, 1, 1, 2, 2]
    eos_ids = list(range(0, SHAPE.vocab, 23))
    describe = Describe(num_beams=beams, repetition_penalty=penalty, max_new_tokens=90)

    generated = begin(network, prompts, adapters, describe, eos_ids=eos_ids).generate()

    for ids, prompt, adapter in zip(generated, prompts, adapters, strict=True):
        assert writes(oracles[adapter], ids, prompt, describe, eos_ids)
    assert len({len(ids) for ids in generated}) > 1


class StubGraph:
    """Runs the work again that a GPU would replay."""

    def __init__(self, work: Callable[[], None], prompts: list[int]) -> None:
        self.work = work
        self.prompts = prompts

    def replay(self) -> None:
        self.prompts.append(len(self.work.__self__.search.tokens) // len(ASPECTS))  # type: ignore[attr-defined]
        self.work()

    def pool(self) -> None:
        return None


@pytest.mark.parametrize("beams", [1, 3])
@torch.inference_mode()
def test_captured_steps_write_what_plain_ones_do(
    network: Network, oracles: list[Oracle], monkeypatch: pytest.MonkeyPatch, beams: int
) -> None:
    # given prompts of several adapters, end tokens that come often, and steps captured for up to 5 of an adapter
    prompts, adapters = sequences([5, 40, 17, 3, 28, 9, 61, 12]), [0, 0, 0, 0, 0, 1, 1, 2]
    describe, eos_ids = Describe(num_beams=beams, max_new_tokens=90), list(range(0, SHAPE.vocab, 23))
    runner = ModelRunner(network.language, describe, eos_ids, most=5)
    plain = Session(runner, prompts, adapters).generate()
    replayed: list[int] = []
    monkeypatch.setattr(decoding, "capture", lambda work, device, pool: StubGraph(work, replayed))
    runner.capture(5)
    # when batches run by them, one after the other
    captured = [Session(runner, prompts, adapters).generate() for _ in range(2)]
    fewer = Session(runner, prompts[3:7], adapters[3:7]).generate()
    # then they write the same, by smaller steps as prompts are finished
    assert captured[0] == captured[1]
    for found, expected, prompt, adapter in zip(
        captured[0] + fewer, plain + plain[3:7], prompts + prompts[3:7], adapters + adapters[3:7], strict=True
    ):
        assert found == expected or writes(oracles[adapter], found, prompt, describe, eos_ids)
    assert [step.prompts for step in runner.captured] == [1, 2, 4, 5]
    assert replayed[0] == 5
    assert len(set(replayed)) > 1


@torch.inference_mode()
def test_a_session_ends_the_one_before(network: Network) -> None:
    # given a cache that has slots for one batch
    runner = ModelRunner(network.language, Describe(max_new_tokens=5), [7], most=2)
    runner.cache = KVCache(network.language.shape, 500, CPU, torch.float32, fixed=True)
    # when several batches need nearly all of them
    first, second = (Session(runner, sequences([40, 30]), [0, 1]).generate() for _ in range(2))
    # then each has them
    assert first == second


@torch.inference_mode()
def test_a_batch_of_nothing_writes_nothing(network: Network) -> None:
    session = begin(network, [], [], Describe())

    assert session.states == session.generate() == session.read([], [], []) == []


@pytest.mark.parametrize("limit", [1, 2, 8, 9, 65])
@torch.inference_mode()
def test_a_search_stops_at_the_limit(network: Network, oracles: list[Oracle], limit: int) -> None:
    describe = Describe(max_new_tokens=limit)
    prompt = sequences([12])

    generated = begin(network, prompt, [1], describe, eos_ids=[SHAPE.vocab - 1]).generate()[0]

    assert writes(oracles[1], generated, prompt[0], describe, [SHAPE.vocab - 1])
    assert len(generated) == limit or generated[-1] == SHAPE.vocab - 1


@pytest.mark.parametrize("beams", [1, 3])
@torch.inference_mode()
def test_each_sequence_has_a_limit_of_its_own(network: Network, oracles: list[Oracle], beams: int) -> None:
    # given limits below and above what the search allows, and one sequence without
    prompts, adapters, limits = sequences([12, 30, 5, 9, 17]), [0, 0, 1, 2, 2], [1, 8, 11, 99, None]
    describe, eos_ids = Describe(num_beams=beams, max_new_tokens=20), [SHAPE.vocab - 1]

    generated = begin(network, prompts, adapters, describe, eos_ids=eos_ids).generate(limits)

    # then each ends as if that were the search's own
    assert [len(ids) for ids in generated] == [1, 8, 11, 20, 20]
    for ids, prompt, adapter, limit in zip(generated, prompts, adapters, limits, strict=True):
        own = describe.model_copy(update={"max_new_tokens": min(limit or 20, 20)})
        assert writes(oracles[adapter], ids, prompt, own, eos_ids)


@torch.inference_mode()
def test_reading_on_gives_the_states_of_the_whole(network: Network, oracles: list[Oracle]) -> None:
    # Given sequences that were read and continued, and others that agree with them up to a point
    prompts, adapters = sequences([30, 12, 21]), [0, 1, 2]
    describe = Describe(max_new_tokens=10)
    session = begin(network, prompts, adapters, describe)
    session.generate()
    known, added = [30, 5, 21], sequences([13, 32, 1])
    # When they are read on from there
    states = session.read([0, 1, 2], known, added)
    # Then it is as if the whole had been read at once
    for row in range(3):
        whole = oracles[adapters[row]].states(torch.cat([prompts[row][: known[row]], added[row]]))
        assert close(states[row], whole)


def read_on_behind_what_was_written(
    session: Session, network: Network, oracles: list[Oracle], prompts: Sequence[torch.Tensor], adapters: Sequence[int]
) -> list[list[int]]:
    """Read each sequence on behind its generated ids, and hold all of its states to those of the whole, read alone."""
    generated = session.generate()
    known = [len(prompt) + len(ids) - 1 for prompt, ids in zip(prompts, generated, strict=True)]
    added = sequences([3 + number for number, _ in enumerate(prompts)])

    states = session.read(range(len(prompts)), known, added)

    for prompt, ids, more, adapter, found in zip(prompts, generated, added, adapters, states, strict=True):
        groups = Groups.from_counts([(adapter, len(ids) - 1)], len(ASPECTS)) if ids[:-1] else Groups((), False)
        written = network.language.embed(torch.tensor(ids[:-1]), groups) if ids[:-1] else more[:0]
        assert close(found, oracles[adapter].states(torch.cat([prompt, written, more])))
    return generated


@pytest.mark.parametrize("beams", [1, 3, 5])
@pytest.mark.parametrize("apart", [23, 399])
@torch.inference_mode()
def test_what_was_written_counts_as_read(network: Network, oracles: list[Oracle], beams: int, apart: int) -> None:
    # given prompts of several adapters, and end tokens that come often or hardly
    prompts, adapters = sequences([5, 40, 17, 3, 28, 9, 61]), [0, 0, 0, 1, 1, 2, 2]
    describe, eos_ids = Describe(num_beams=beams, max_new_tokens=PAGE_STEPS + 26), list(range(0, SHAPE.vocab, apart))
    session = begin(network, prompts, adapters, describe, eos_ids=eos_ids)
    # when they are read on behind what was written
    generated = read_on_behind_what_was_written(session, network, oracles, prompts, adapters)
    # then their states are those of the whole, whether sequences end apart or reach a second page
    lengths = {len(ids) for ids in generated}
    assert len(lengths) > 1 if apart == 23 else max(lengths) > PAGE_STEPS


@torch.inference_mode()
def test_what_captured_steps_wrote_counts_as_read(
    network: Network, oracles: list[Oracle], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given steps captured for up to 5 of an adapter, and a fixed cache
    prompts, adapters = sequences([5, 40, 17, 3, 28, 9, 61, 12]), [0, 0, 0, 0, 0, 1, 1, 2]
    runner = ModelRunner(network.language, Describe(max_new_tokens=90), list(range(0, SHAPE.vocab, 23)), most=5)
    runner.cache = KVCache(network.language.shape, 5000, CPU, torch.float32, fixed=True)
    replayed: list[int] = []
    monkeypatch.setattr(decoding, "capture", lambda work, device, pool: StubGraph(work, replayed))
    runner.capture(5)
    for _ in range(2):  # when batches run by them, one after the other, then what each wrote is known
        session = Session(runner, prompts, adapters)
        read_on_behind_what_was_written(session, network, oracles, prompts, adapters)
    assert len(set(replayed)) > 1


@pytest.mark.parametrize(("read", "seen"), [(25, 32_768), (8_192, 45)])
@torch.inference_mode()
def test_sequences_are_read_on_in_any_portions(
    network: Network, oracles: list[Oracle], monkeypatch: pytest.MonkeyPatch, read: int, seen: int
) -> None:
    prompts, adapters, added = sequences([30, 12, 21, 4]), [0, 0, 1, 2], sequences([7, 22, 5, 9])
    session = begin(network, prompts, adapters, Describe())
    monkeypatch.setattr(session_module, "_READ_TOKENS", read)
    monkeypatch.setattr(session_module, "_SEEN_TOKENS", seen)

    states = session.read(range(4), [30, 12, 21, 4], added)

    for prompt, more, adapter, found in zip(prompts, added, adapters, states, strict=True):
        assert close(found, oracles[adapter].states(torch.cat([prompt, more])))


def test_a_portion_ends_where_it_would_read_or_see_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_READ_TOKENS", 10)
    monkeypatch.setattr(session_module, "_SEEN_TOKENS", 30)

    def portions(known: Sequence[int], new: Sequence[int]) -> list[tuple[int, int]]:
        return [(part.start, part.stop) for part in session_module._portions(known, new)]

    assert portions([0, 0, 0], [4, 6, 1]) == [(0, 2), (2, 3)]
    assert portions([9, 19, 9, 9], [1, 1, 1, 1]) == [(0, 2), (2, 4)]
    assert portions([0, 50, 0], [99, 1, 1]) == [(0, 1), (1, 2), (2, 3)]
    assert portions([], []) == []


@torch.inference_mode()
def test_some_rows_may_be_read_anew_in_any_portions(
    network: Network, oracles: list[Oracle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_READ_TOKENS", 25)
    prompts, adapters = sequences([30, 12, 21, 4]), [0, 0, 1, 2]

    session = begin(network, prompts, adapters, Describe())

    for row, states in enumerate(session.states):
        assert close(states, oracles[adapters[row]].states(prompts[row]))
    anew = sequences([35, 22])
    for row, states in zip((0, 3), session.read([0, 3], [0, 0], anew), strict=True):
        assert close(states, oracles[adapters[row]].states(anew[(0, 3).index(row)]))


@torch.inference_mode()
def test_a_batch_too_large_for_the_cache_is_a_typed_failure(network: Network) -> None:
    runner = ModelRunner(network.language, Describe(), [7], most=2)
    runner.cache = KVCache(network.language.shape, 40, CPU, torch.float32, fixed=True)

    with pytest.raises(ScoringOutOfMemory):
        Session(runner, sequences([30, 30]), [0, 0])


def test_the_golden_images_take_the_grid_their_case_says() -> None:
    case = Case(Path(__file__).parents[2] / "golden/mini_c_1024x1024")

    assert Slicing().grid(*case.image.rgb.size, 9).slices == case.facts["slices"]["generation_max9"]["n"] - 1
    image = Cutter(Slicing(), (9,)).cut(case.image)
    assert EncodedImage(image, Slicing(), torch.device("cpu")).grid(9).slices == 6


def test_what_no_row_owns_does_not_reach_any() -> None:
    # given slots that hold NaN, among them the first, and two rows of different lengths that own others
    cache = KVCache(LlamaShape.from_config(SHAPE.config()), 16, CPU, torch.float32, fixed=True)
    for part in (*cache.keys, *cache.values):
        part.fill_(float("nan"))
        part[4:12] = torch.randn(8, *part.shape[1:], generator=torch.Generator().manual_seed(1))
    heads = SHAPE.heads + 2 * SHAPE.kv_heads
    qkv = torch.randn(2, heads * (SHAPE.hidden // SHAPE.heads), generator=torch.Generator().manual_seed(2))
    slots = [torch.arange(4, 7), torch.arange(7, 12)]
    # when each reads one more token
    attend = PrefillAttention(cache, torch.ones(SHAPE.hidden // SHAPE.heads // 2), slots, known=[2, 4], new=[1, 1])
    # then
    assert bool(attend(0, qkv).isfinite().all())
