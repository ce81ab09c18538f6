"""Arrows point one way: each part imports with what it must not need blocked."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from producers import Client
from tests import import_graph
from tests.support import PATIENCE_S, ROOT, Web, Worker, eventually, free_port, start_worker

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
#: Of images, policies and prompts.
IMAGES = {"PIL", "numpy", "yaml", "regex"}
WORKER = {"celery", "kombu", "boto3", "botocore", "requests", "requests_hardened", "sentry_sdk", "flower"}
OURS = ("m3agiqa", "producers", "worker")
#: What alone may know the queue, beside the client.
QUEUE_USERS = {"m3agiqa.cli.doctor", "m3agiqa.report.sources"}


def modules(package: str) -> list[str]:
    """Every module of `package` that can be imported here: a torch for the CPU alone comes without triton."""
    found = import_graph.modules(ROOT, [package])
    if importlib.util.find_spec("triton") is None:
        found = {
            name: file for name, file in found.items() if "\nimport triton\n" not in file.read_text(encoding="utf-8")
        }
    return sorted(found)


def of_queue(module: str) -> bool:
    return f"{module}.".startswith("m3agiqa.queue.")


def of_client(module: str) -> bool:
    return f"{module}.".startswith("m3agiqa.client.")


def of_gateway(module: str) -> bool:
    return f"{module}.".startswith("m3agiqa.gateway.")


def may_import_a_worker(module: str) -> bool:
    """A command may import a worker when it runs, and so may what opens sources for commands: the command line is the
    top of everything.
    """
    return module.startswith("m3agiqa.cli.") or module == "m3agiqa.report.sources"


def of_delivery() -> list[str]:
    """What a worker that only delivers is made of."""
    elsewhere = ("worker.score.", "worker.shadow.", "worker.load.", "worker.demo.")
    return [name for name in modules("worker") if not f"{name}.".startswith(elsewhere)]


def failure(blocked: set[str], program: str) -> str:
    """How a program fails that lacks the packages `blocked`; empty if it does not."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKER.format(blocked=blocked) + program],
        cwd=ROOT,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return "" if ended.returncode == 0 else f"ended with {ended.returncode}:\n{ended.stderr}"


def import_all(names: list[str]) -> str:
    return "import importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in names)


def test_the_blocker_blocks() -> None:
    assert "No module named 'redis'" in failure({"redis"}, "import producers")


def test_producers_need_redis_and_pydantic_alone() -> None:
    blocked = {*WORKER, *IMAGES, *TORCH, "pydantic_settings", "worker"}
    assert failure(blocked, import_all(modules("producers"))) == ""


def test_the_library_knows_no_worker() -> None:
    assert failure({*WORKER, "producers", "worker"}, import_all(modules("m3agiqa"))) == ""


def test_no_function_of_the_library_imports_a_worker_either_but_those_of_commands_and_uploads() -> None:
    known = import_graph.modules(ROOT, ["m3agiqa"])
    for name, file in known.items():
        if may_import_a_worker(name):
            continue
        tops = {other.partition(".")[0] for other in import_graph.imported(file, known, later=True)}
        is_of_s3 = name in ("m3agiqa.client.bucket", "m3agiqa.client.removing")
        allowed = {"boto3", "botocore"} if is_of_s3 else set()
        assert not tops & {*WORKER, "producers", "worker"} - allowed, name


def test_redis_is_imported_by_the_queue_alone() -> None:
    known = import_graph.modules(ROOT, ["m3agiqa"])
    users = {
        name
        for name, file in known.items()
        if any(f"{other}.".startswith("redis.") for other in import_graph.imported(file, known, later=True))
    }
    assert users
    assert all(map(of_queue, users)), users


def test_scoring_knows_no_queue() -> None:
    edges = import_graph.graph(import_graph.modules(ROOT, ["m3agiqa"]), later=True)
    users = {name for name, others in edges.items() if not of_queue(name) and any(map(of_queue, others))}
    assert {name for name in users if not of_client(name) and not of_gateway(name)} == QUEUE_USERS


def test_scoring_does_without_redis() -> None:
    names = [name for name in modules("m3agiqa") if not (of_queue(name) or of_client(name) or of_gateway(name))]
    assert "m3agiqa.cli.score" in names
    assert failure({"redis", *WORKER}, import_all(names)) == ""


@pytest.mark.parametrize(
    "module", ["contract", "errors", "policy", "profile", "images", "jobs", "verdict", "config", "scorer"]
)
def test_parts_of_the_library_do_without_torch(module: str) -> None:
    assert failure(TORCH - {"huggingface_hub"}, f"import m3agiqa.{module}") == ""


def test_the_queue_does_without_images_and_torch() -> None:
    names = [name for name in modules("m3agiqa") if of_queue(name) or of_client(name)]
    assert failure({*TORCH, *IMAGES, *WORKER}, import_all(names)) == ""


def test_the_gateway_does_without_images_torch_and_celery() -> None:
    names = [name for name in modules("m3agiqa") if of_gateway(name)]
    assert "m3agiqa.gateway.app" in names
    assert failure({*TORCH, *IMAGES, *WORKER}, import_all(names)) == ""


def test_the_gateway_alone_knows_http_servers() -> None:
    names = [name for name in modules("m3agiqa") if not of_gateway(name)]
    assert failure({"starlette", "uvicorn", "python_multipart", *WORKER}, import_all(names)) == ""


def test_the_worker_imports_without_torch_and_reads_nothing() -> None:
    # A wrong setting would be an error as soon as the environment is read.
    program = "import os; os.environ['M3AGIQA_NONE_SUCH'] = 'x'\n" + import_all(modules("worker"))
    assert failure(TORCH, program) == ""


def test_importing_starts_nothing() -> None:
    names = [*modules("producers"), *modules("worker")]
    program = import_all(names) + (
        "import logging, threading\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert not logging.getLogger().handlers\n"
    )
    assert failure(TORCH, program) == ""


def test_what_delivers_imports_nothing_of_images_policies_and_models() -> None:
    names = of_delivery()
    assert {"worker.app", "worker.delivery.handler", "worker.delivery.sender", "worker.runtime"} <= {*names}
    program = import_all(names) + "import sys\nassert not {'m3agiqa.policy', 'm3agiqa.images'} & sys.modules.keys()\n"
    assert failure({*TORCH, *IMAGES}, program) == ""


def test_the_extra_for_delivering_brings_what_is_imported_and_nothing_of_images() -> None:
    # given the packages that the modules name, wherever in them
    known = import_graph.modules(ROOT, OURS)
    reached = import_graph.reached(import_graph.graph(known), of_delivery())
    tops = {
        other.partition(".")[0] for name in reached for other in import_graph.imported(known[name], known, later=False)
    }
    named = {name for top in tops - {*OURS} for name in packages_distributions().get(top, ())}
    # then pip installs them, boto3's own one by boto3
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["deliver"]]
    installed = {word.partition("[")[0] for line in wanted for word in line.replace(">", "=").split("=")[:1]}
    assert {name.lower().replace("_", "-") for name in named} - {"botocore"} <= installed
    assert not installed & {"pillow", "numpy", "regex", "torch"}


def test_a_deliver_worker_delivers_without_what_opens_and_scores_images(
    redis_url: str, client: Client, web: Web, worker_process: Callable[..., Worker], tmp_path: Path
) -> None:
    # given a worker of `deliver` that can import none of it
    worker_process("score")
    deliverer = start_worker(
        tmp_path / "bare",
        "deliver",
        concurrency=2,
        prelude=BLOCKER.format(blocked={*TORCH, *IMAGES}),
        redis_url=redis_url,
        deliver_allow_hosts=web.endpoint,
        webhook_secrets="whsec_" + "c2VjcmV0" * 5,
        metrics_port=free_port(),
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


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next one, and the last one the first; none, if there are none such."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    edges = import_graph.graph(import_graph.modules(ROOT, OURS))
    assert edges["worker.app"] >= {"worker.lifecycle", "worker.runtime", "m3agiqa.queue.keys"}
    assert circle(edges) == []


def test_no_package_imports_itself_by_way_of_others() -> None:
    known = import_graph.modules(ROOT, ["m3agiqa"])
    rooms = import_graph.rooms(import_graph.graph(known), known)
    assert rooms["m3agiqa.train.head"] >= {"m3agiqa.report", "m3agiqa.train.evaluation", "m3agiqa.outputs"}
    assert circle(rooms) == []


def test_the_report_draws_what_it_is_given() -> None:
    edges = import_graph.graph(import_graph.modules(ROOT, ["m3agiqa"]), later=True)
    known = {name for name in edges if f"{name}.".startswith("m3agiqa.train.")}
    assert known
    assert not import_graph.reached(edges, [name for name in edges if name.startswith("m3agiqa.report")]) & known


def test_circles_of_packages_are_found(tmp_path: Path) -> None:
    # given two packages that import each other, though no module of them imports itself
    for name, text in {"a/x": "from p.b import y", "a/z": "", "b/y": "", "b/w": "from p.a import z"}.items():
        file = tmp_path / "p" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text)
    known = import_graph.modules(tmp_path, ["p"])
    edges = import_graph.graph(known)
    # then the packages make a circle, and the modules none
    assert circle(edges) == []
    assert set(circle(import_graph.rooms(edges, known))) == {"p.a", "p.b"}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"a": "from p import b", "b": "import p.a"}, {"p.a", "p.b"}),
        ({"a": "try:\n    from p.b import x\nexcept ImportError:\n    pass", "b": "from p import a"}, {"p.a", "p.b"}),
        ({"__init__": "from p.a import x", "a": "from p import x"}, {"p", "p.a"}),
        ({"q/__init__": "from p import a", "q/b": "", "a": "from p.q.b import x"}, {"p.q", "p.a"}),
        ({"a": "from p import b", "b": "def later():\n    from p import a"}, set()),
        ({"a": "from p import b", "b": "if TYPE_CHECKING:\n    from p import a"}, set()),
        ({"__init__": "from p import a", "a": "from p import b", "b": ""}, set()),
    ],
)
def test_circles_are_found(files: dict[str, str], found: set[str], tmp_path: Path) -> None:
    for name, text in files.items():
        file = tmp_path / "p" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert set(circle(import_graph.graph(import_graph.modules(tmp_path, ["p"])))) == found
