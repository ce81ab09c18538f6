"""The page of the demo's verdicts: written to the disk, and served while the demo stays up."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from m3agiqa.policy import Policy
from m3agiqa.report.judged import Judged
from m3agiqa.report.page.build import Page, build
from m3agiqa.report.page.thumbnails import Folder


def write(images: Sequence[Judged], pictures: Path, folder: Path) -> Path:
    """Write the page of `images`, whose files are in `pictures`. Returns its index.html.

    Raises:
        OutputError: `folder` cannot be written, or holds something else.
    """
    page = Page(Policy.load("default"), "Verdicts of the demo", labels=len(images))
    return build(images, folder, page, Folder(pictures)).resolve()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder on loopback while the block runs. Gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """The terminal is for the demo's own lines."""
