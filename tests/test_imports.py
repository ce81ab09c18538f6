"""Arrows point one way: each part imports with what it must not need blocked."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from producers import Client
from tests.support import PATIENCE_S, ROOT, Web, Worker, eventually, start_worker

#: Makes packages look as if they were not installed.
BLOCKER = """
import sys
class WithoutBlocked:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [WithoutBlocked(finder) for finder in sys.meta_path]
"""
TORCH = {
    "torch",
    "torchvision",
    "transformers",
    "peft",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "xlstm",
    "triton",
}
QUEUE = {"celery", "kombu", "redis", "boto3", "botocore", "requests", "requests_hardened", "sentry_sdk", "flower"}


def modules(package: str) -> list[str]:
    """Every module of `package` that can be imported here: a torch for the CPU alone comes without triton."""
    files = list((ROOT / package).rglob("*.py"))
    if importlib.util.find_spec("triton") is None:
        files = [file for file in files if "\nimport triton\n" not in file.read_text(encoding="utf-8")]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return sorted(name.removesuffix(".__init__") for name in names)


def run(blocked: set[str], program: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKER.format(blocked=blocked) + program],
        cwd=ROOT,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def import_all(names: list[str]) -> str:
    return "import importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in names)


def test_the_blocker_blocks() -> None:
    with pytest.raises(AssertionError, match="No module named 'redis'"):
        run(QUEUE, "import producers")


def test_producers_need_redis_and_pydantic_alone() -> None:
    unwanted = {"celery", "kombu", "PIL", "yaml", "boto3", "numpy", "pydantic_settings", "worker", *TORCH}
    run(unwanted, import_all(modules("producers")))


def test_the_library_knows_no_queue() -> None:
    run({*QUEUE, "producers", "worker"}, import_all(modules("m3agiqa")))


@pytest.mark.parametrize(
    "module", ["contract", "errors", "policy", "profile", "images", "jobs", "verdict", "config", "scorer"]
)
def test_parts_of_the_library_do_without_torch(module: str) -> None:
    run(TORCH - {"huggingface_hub"}, f"import m3agiqa.{module}")


def test_the_worker_imports_without_torch_and_reads_nothing() -> None:
    # A wrong setting would be an error as soon as the environment is read.
    program = "import os; os.environ['M3AGIQA_NONE_SUCH'] = 'x'\n" + import_all(modules("worker"))
    run(TORCH, program)


def test_importing_starts_nothing() -> None:
    names = [*modules("producers"), *modules("worker")]
    program = import_all(names) + (
        "import logging, threading\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert not logging.getLogger().handlers\n"
    )
    run(TORCH, program)


def test_a_deliver_worker_delivers_without_torch(
    redis_url: str, client: Client, web: Web, worker_process: Callable[..., Worker], tmp_path: Path
) -> None:
    # given a worker of `deliver` that cannot import torch
    worker_process("score")
    deliverer = start_worker(
        tmp_path / "no-torch",
        "deliver",
        concurrency=2,
        prelude=BLOCKER.format(blocked=TORCH),
        redis_url=redis_url,
        deliver_allow_hosts=web.place,
        webhook_secrets="whsec_" + "c2VjcmV0" * 5,
    )
    try:
        deliverer.wait_ready("deliver")
        # when a verdict is to be delivered
        client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("hook"))
        # then it is
        eventually(lambda: web.count("hook"), "a callback")
        assert deliverer.terminate() == 0
    finally:
        deliverer.kill()
