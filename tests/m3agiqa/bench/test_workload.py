from __future__ import annotations

from m3agiqa.bench.workload import Work
from m3agiqa.jobs import Job
from m3agiqa.model.slicing import Slicing
from tests.m3agiqa.engine.test_scoring import ASPECTS, engine, image, network
from tests.m3agiqa.golden import WORDS

__all__ = ["network"]


def test_the_work_of_a_batch_is_what_was_encoded_read_and_written(network) -> None:
    # Given an image in three slices, one in the overview alone, and one that fails
    runner = engine(network, max_new_tokens=5)
    jobs = [Job(image(512, 512), "x"), Job(image(64, 64), "x", ASPECTS[:1]), Job(image(64, 64), "word " * 1500)]
    # When they are read
    rows = runner.encode(jobs)
    session = runner.prefill(rows)
    runner.describe(rows, session)
    states = runner.read(rows, session)
    work = Work.from_rows(rows, network.towers)
    # Then each aspect's tower encoded each image, and every row read its prompt once
    towers = len({id(tower) for tower in network.towers.values()})
    assert sorted(slices for slices, _ in work.encoded) == sorted([1] + [3] * towers)
    assert work.encoded_again == ()
    prompts = [
        len(
            network.tokenizer.generation_prompt(
                Slicing().grid(side, side, 9), WORDS[aspect][0].replace("{prompt}", "x")
            ).ids
        )
        for aspect, side in ((ASPECTS[0], 512), (ASPECTS[0], 64), (ASPECTS[1], 512))
    ]
    assert list(work.prompts) == prompts
    assert all(1 <= count <= 5 for count in work.generated)
    for (known, new), prompt in zip(work.read, prompts, strict=True):
        assert known >= prompt - 2  # all but the tokens that begin the answer
        assert new > 0
    assert [known + new for known, new in work.read] == [len(read) for read in states]
