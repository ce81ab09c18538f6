from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib

from tests.support import PATIENCE_S, ROOT

SIDE = 12_000
#: Opens what comes by standard input; prints the failure's code and how many bytes more it took at the most.
OPENS = """
import json, resource, sys
from PIL import Image
from m3agiqa.errors import M3AGIQAError
from m3agiqa.images import open_image

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

Image.init()
data = sys.stdin.buffer.read()
before, code = most(), None
try:
    open_image(data)
except M3AGIQAError as error:
    code = error.code
print(json.dumps([code, most() - before]))
"""


def bomb() -> bytes:
    """A black PNG of 144 megapixels, which are 432 MB, in 420 kB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * SIDE)
    pixels = b"".join(packer.compress(row) for _ in range(SIDE)) + packer.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def opened(data: bytes) -> tuple[str | None, int]:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OPENS],
        input=data, cwd=ROOT, capture_output=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    code, grown = json.loads(ended.stdout)
    return code, grown


def test_a_image_that_would_fill_the_memory_is_refused_by_its_header() -> None:
    data = bomb()
    assert len(data) < 450_000
    code, grown = opened(data)
    assert code == "image_too_large"
    assert grown < 50_000_000
