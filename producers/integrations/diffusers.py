"""Gates what a pipeline of diffusers puts out, or whatever else is called with a prompt and answers with `images`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from m3agiqa.client import Gate, Judged
from m3agiqa.errors import UsageError


@dataclass(frozen=True)
class Gated:
    """What a pipeline put out, sorted."""

    judged: list[Judged]
    #: The pipeline's own output, with all images.
    output: Any

    @property
    def images(self) -> list[Any]:
        """Images to keep."""
        return [one.image for one in self.judged if one.kept]


@dataclass(frozen=True)
class GatedPipeline:
    """A pipeline whose images are judged before anybody sees them."""

    pipeline: Callable[..., Any]
    gate: Gate

    def __call__(self, prompt: str | Sequence[str], *arguments: Any, **options: Any) -> Gated:
        """Call the pipeline with these arguments, and wait for the verdicts.

        Raises:
            UsageError: `options` ask for something else than an object with images of Pillow's; nothing is generated.
            M3AGIQAError: as `Gate.judge`.
        """
        if options.get("output_type", "pil") != "pil" or not options.get("return_dict", True):
            raise UsageError("a gate takes output_type='pil' and return_dict=True, the defaults of pipelines")
        output = self.pipeline(prompt, *arguments, **options)
        return Gated(self.gate.judge(output.images, prompt), output)
