"""Images that cost decoders seconds or gigabytes: what `worker.load.hostile` attacks a worker with.

Most makers write the file by hand, within milliseconds, in the fewest bytes that a decoder still believes. No file is
larger than what a worker fetches.
"""

from __future__ import annotations

from worker.load.bombs.avif import AVIFS
from worker.load.bombs.common import Makers
from worker.load.bombs.gif import GIFS
from worker.load.bombs.jpeg import JPEGS
from worker.load.bombs.png import PNGS
from worker.load.bombs.webp import WEBPS

BOMBS: Makers = {**JPEGS, **PNGS, **GIFS, **WEBPS, **AVIFS}
