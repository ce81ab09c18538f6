"""Files that mean ill, in this process: what the container walks refuse, no decoder ever sees."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from m3agiqa.errors import ImageError, ImageTooCostly
from m3agiqa.images import decode, read_header
from worker.load.bombs import BOMBS
from worker.settings import Settings

#: Refused by the numbers of their parts or scans.
REFUSED = (
    "avif-boxes",
    "gif-comment",
    "gif-frames",
    "jpeg-scans",
    "jpeg-segments",
    "png-chunks",
    "png-idats",
)
#: Bombs that an encoder takes seconds to write.
SLOW_TO_MAKE = {"avif-flat", "avif-noise", "webp-noise"}
#: Bombs whose header alone takes seconds: a worker ends the process that reads it.
SLOW_TO_READ = {"avif-directory", "avif-grid", "avif-items", "jpeg-stuffing"}
#: Bombs with much data around a small image, which alone is decoded.
LIGHT = ("jpeg-fill", "jpeg-markers", "png-directory", "png-frames", "png-profile", "png-texts")
#: Seconds of processor time; a walk that is not bounded takes far more.
AT_MOST_S = 3.0


@pytest.mark.parametrize("name", REFUSED)
def test_parts_and_scans_without_number_are_refused_unseen(name: str) -> None:
    data = BOMBS[name]()
    began = time.process_time()
    with pytest.raises(ImageTooCostly):
        read_header(data)
    assert time.process_time() - began < AT_MOST_S


@pytest.mark.parametrize("name", sorted(BOMBS.keys() - SLOW_TO_MAKE - SLOW_TO_READ - {*REFUSED}))
def test_the_rest_is_an_image_or_a_typed_error(name: str) -> None:
    data = BOMBS[name]()
    assert len(data) <= Settings().fetch_max_bytes
    began = time.process_time()
    with suppress(ImageError):
        assert read_header(data).pixels
    assert time.process_time() - began < AT_MOST_S


@pytest.mark.parametrize("name", LIGHT)
def test_what_surrounds_a_small_image_costs_nothing(name: str) -> None:
    undecoded = read_header(BOMBS[name]())
    began = time.process_time()
    assert decode(undecoded).rgb.size == (64, 64)
    assert time.process_time() - began < 1
