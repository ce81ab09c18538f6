"""Loads and runs custom nodes as ComfyUI does, without ComfyUI, whose package needs a GPU's worth of others.

Written after `load_custom_node` of its nodes.py, and `_async_map_node_over_list`, `get_output_from_returns` and
`merge_result_data` of its execution.py, as of November 2026: how a folder is imported, what a node is called with, how
nodes that are coroutines run, what their outputs become, and what blocks a node.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any


class Blocker:
    """ComfyUI's ExecutionBlocker: a node that it is an input of does not run, and puts it out instead."""

    def __init__(self, message: str | None) -> None:
        self.message = message


class Interrupted(Exception):
    """What ComfyUI raises in a node when the user interrupts."""


@dataclass
class ComfyUI:
    """As much of ComfyUI as nodes see."""

    interrupted: bool = False
    nodes: dict[str, type] = field(default_factory=dict)

    def modules(self) -> dict[str, ModuleType]:
        """What nodes may import."""
        made = {name: ModuleType(name) for name in ("comfy", "comfy_execution")}
        management, graph = ModuleType("comfy.model_management"), ModuleType("comfy_execution.graph_utils")
        management.throw_exception_if_processing_interrupted = self._look  # type: ignore[attr-defined]
        graph.ExecutionBlocker = Blocker  # type: ignore[attr-defined]
        return {**made, management.__name__: management, graph.__name__: graph}

    def _look(self) -> None:
        if self.interrupted:
            self.interrupted = False
            raise Interrupted

    def load(self, place: Path) -> None:
        """Import a folder of `custom_nodes`, or a file there, and take in its nodes."""
        name = str(place.with_suffix("")) if place.is_file() else str(place).replace(".", "_x_")
        spec = importlib.util.spec_from_file_location(name, place if place.is_file() else place / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        for title, node in module.NODE_CLASS_MAPPINGS.items():
            assert title in module.NODE_DISPLAY_NAME_MAPPINGS
            self.nodes[title] = node

    async def run(self, title: str, **inputs: Sequence[Any]) -> dict[str, Any]:
        """Run a node on lists of inputs, of which the last item of a shorter one is repeated; its outputs by name.

        An input that is left out has the widget's default.
        """
        node = self.nodes[title]
        given = {**{name: [value] for name, value in _defaults(node).items()}, **inputs}
        calls = [
            {name: values[at] if at < len(values) else values[-1] for name, values in given.items()}
            for at in range(max(map(len, given.values())))
        ]
        started = [self._call(node(), call) for call in calls]
        results = [await one if isinstance(one, asyncio.Task) else one for one in started]
        told = [one["ui"] for one in results if isinstance(one, dict)]
        plain = [one["result"] if isinstance(one, dict) else one for one in results]
        slots = node.RETURN_NAMES  # type: ignore[attr-defined]
        assert len(slots) == len(node.RETURN_TYPES)  # type: ignore[attr-defined]
        return {
            **{name: [one if isinstance(one, Blocker) else one[at] for one in plain] for at, name in enumerate(slots)},
            "ui": {name: [line for one in told for line in one[name]] for name in (told[0] if told else ())},
        }

    def _call(self, node: Any, inputs: Mapping[str, Any]) -> Any:
        self._look()
        if any(isinstance(value, Blocker) for value in inputs.values()):
            return Blocker(None)
        work = getattr(node, node.FUNCTION)
        return asyncio.create_task(work(**inputs)) if inspect.iscoroutinefunction(work) else work(**inputs)


def _defaults(node: Any) -> dict[str, Any]:
    kinds = node.INPUT_TYPES()
    widgets = {**kinds["required"], **kinds.get("optional", {})}
    found = {}
    for name, (kind, *options) in widgets.items():
        if isinstance(kind, list):
            found[name] = kind[0]
        elif options and "default" in options[0]:
            found[name] = options[0]["default"]
    return found
