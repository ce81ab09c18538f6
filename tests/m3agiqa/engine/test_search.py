from __future__ import annotations

import pytest
import torch

from m3agiqa.engine.search import _RUN_WORDS, BeamSearch, Written, _top
from m3agiqa.profile import Describe


@pytest.mark.parametrize("vocab", [100, 20 * _RUN_WORDS + 1, 4 * 9 * _RUN_WORDS, 128_256])
@pytest.mark.parametrize("close", [False, True])
def test_the_best_words_are_those_of_all(vocab: int, close: bool) -> None:
    # given scores whose best are anywhere, or all in one run of words
    scores = torch.randn(4, vocab, generator=torch.Generator().manual_seed(vocab))
    if close:
        scores[:, 40:60] += 20
    # when
    best, words = _top(scores, 9)
    # then
    expected = scores.topk(9, dim=-1)
    assert torch.equal(best, expected.values)
    assert torch.equal(words, expected.indices)


def test_the_best_sequence_is_traced_to_the_beams_that_computed_it() -> None:
    # given two beams, and words 0 to 5 of which 5 ends
    search = BeamSearch.start([None], Describe(num_beams=2, max_new_tokens=6), torch.device("cpu"))

    def advance(step: int, *chances: list[float]) -> None:
        logits = torch.tensor(chances).log()
        search.advance(logits, torch.tensor([step]), torch.tensor([5]), penalty=1.0)

    none = 1e-9
    # when word 1 leads word 2 at first
    advance(0, [none, 0.6, 0.4, none, none, none])
    # and beam 1, of word 2, goes on for sure, so that it takes the lead
    advance(1, [0.2, 0.2, 0.2, 0.2, 0.2, none], [none, none, none, 1.0, none, none])
    # and ends
    advance(2, [none, none, none, none, none, 1.0], [0.25, 0.25, 0.25, 0.25, none, none])
    advance(3, [0.2, 0.2, 0.2, 0.2, 0.2, none], [0.2, 0.2, 0.2, 0.2, 0.2, none])
    # then word 2 was computed in beam 1, and word 3, by then in the lead, in beam 0
    assert search.results() == [Written(ids=[2, 3, 5], beams=[1, 0])]
