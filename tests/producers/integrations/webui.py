"""Loads and runs an extension's script as AUTOMATIC1111's webui does, without the webui.

Written after `load_scripts` and `ScriptRunner` of its modules/scripts.py, `load_module` of modules/script_loading.py,
and `process_images_inner` of modules/processing.py: where arguments of a script come from, what becomes of its
exceptions, in which order images, their masks and their grid stand, and what knows of files. Forge is alike.
"""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from PIL import Image


class Component:
    """A component of gradio, which has a value and may be a context."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.label = options.get("label", "")
        # Checkbox(value, ...), Number(value, ...); Radio(choices, value, ...), Accordion(label, ...)
        self.value = options.get("value", arguments[0] if arguments else None)

    def __enter__(self) -> Component:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class Script:
    """What scripts of the webui are made from."""

    args_from = args_to = 0


ALWAYS = object()


def modules() -> dict[str, ModuleType]:
    """What a script may import."""
    gradio, package, scripts = ModuleType("gradio"), ModuleType("modules"), ModuleType("modules.scripts")
    for name in ("Accordion", "Checkbox", "Number", "Radio"):
        setattr(gradio, name, Component)
    scripts.Script, scripts.AlwaysVisible = Script, ALWAYS  # type: ignore[attr-defined]
    package.scripts = scripts  # type: ignore[attr-defined]
    return {"gradio": gradio, "modules": package, "modules.scripts": scripts}


@dataclass
class Processed:
    """What the webui has generated, as it shows it."""

    images: list[Any]
    all_prompts: list[str]
    infotexts: list[str]
    index_of_first_image: int
    all_negative_prompts: list[str]
    all_seeds: list[int]
    all_subseeds: list[int]
    comments: str = ""


@dataclass
class Webui:
    """One script in a webui that saves what it generates in `folder`."""

    folder: Path
    save: bool = True
    grid: bool = False
    mask: bool = False
    errors: list[BaseException] = field(default_factory=list)

    def load(self, file: Path) -> None:
        spec = importlib.util.spec_from_file_location(file.name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        [made] = [one for one in vars(module).values() if inspect.isclass(one) and issubclass(one, Script)]
        self.script: Any = made()
        assert self.script.title()
        assert self.script.show(False) is ALWAYS
        self.controls = self.script.ui(False)

    def generate(self, prompts: list[str], *arguments: Any) -> Processed:
        """Generate an image of each prompt; further `arguments` are what the user chose."""
        made, infotexts = [], []
        for number, prompt in enumerate(prompts):
            image = Image.new("RGB", (8, 8), (number, 0, 0))
            self._saved(image, f"{number:05}", prompt)
            made.append(image)
            infotexts.append(f"{prompt}\nSteps: 1")
            if self.mask:
                made.append(Image.new("L", (8, 8)))
        if self.grid:
            grid = Image.new("RGB", (8 * len(prompts), 8))
            self._saved(grid, "grid", "")
            made.insert(0, grid)
            infotexts.insert(0, "the grid")
        numbers = list(range(len(prompts)))
        # The webui has prompts for all batches, also where the user stopped it after some of them.
        done = Processed(
            made, [*prompts, "never drawn"], infotexts, int(self.grid), [""] * len(prompts), numbers, [*numbers]
        )
        try:
            self.script.postprocess(None, done, *arguments)
        except Exception as error:
            self.errors.append(error)
        return done

    def _saved(self, image: Any, name: str, text: str) -> None:
        if not self.save:
            return
        file = self.folder / f"{name}.png"
        image.save(file)
        file.with_suffix(".txt").write_text(text)
        image.already_saved_as = str(file)

    def files(self) -> list[str]:
        """Names of the images that are saved, and not filed away."""
        return sorted(file.stem for file in self.folder.glob("*.png"))

    def rejected(self) -> list[str]:
        return sorted(file.stem.partition("-")[0] for file in self.folder.glob("rejected/*.png"))
