"""A decoder process whose decoder wants far more memory than its image may take, and blames the image."""

import sys

import numpy as np

from m3agiqa.errors import ImageUnreadable
from m3agiqa.images import DecodedImage, Undecoded
from worker.score.decoding import child

KEPT = []


def greedy(undecoded: Undecoded) -> DecodedImage:
    try:
        while True:
            KEPT.append(np.ones(2**25, np.uint8))
    except MemoryError:
        raise ImageUnreadable("broken") from None


child.decode = greedy
child.main(sys.argv[1:])
