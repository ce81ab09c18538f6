"""The steps of a base's training: first its tower looks, then its language model converses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from m3agiqa.model.slicing import Slicing
from m3agiqa.model.tokens import PAD_ID, ConversationTokenizer
from m3agiqa.model.vision import normalise
from m3agiqa.train.base.average import Average
from m3agiqa.train.base.material import AT_ONCE, Material, Numbers
from m3agiqa.train.base.settings import Pretraining
from m3agiqa.train.base.spectrum import embed_spectrum
from m3agiqa.train.base.student import Chapter, Student, chapter, map_loss, readout_losses, text_loss
from m3agiqa.train.base.teacher import Teacher
from m3agiqa.train.base.views import Cut, altered, cut, random_views
from m3agiqa.train.data import lessons


class Trainer:
    def __init__(
        self,
        material: Material,
        teacher: Teacher,
        tokenizer: ConversationTokenizer,
        settings: Pretraining,
        device: torch.device,
    ) -> None:
        self.material, self.teacher, self.settings, self.device = material, teacher, settings, device
        shape = settings.shape.config()
        self.slicing = Slicing.from_config(shape)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.student = Student(shape, len(settings.labels)).to(device)
        some = material.images[material.train[:: max(1, len(material.train) // AT_ONCE)]]
        embed_spectrum(self.student.base.vpm.embeddings.patch_embedding, normalise(some))
        self.average = Average(self.student, settings.ema)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(),
            settings.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=settings.weight_decay,
            fused=device.type == "cuda",
        )
        self._tokens = lru_cache(maxsize=None)(
            lambda number, which, grid: lessons.tokens(tokenizer, material.conversations[number][which], grid)
        )
        #: How every whole image is cut, all being of one size.
        self._whole = self._cut(material.images[:1])

    def step(self, step: int) -> Mapping[str, torch.Tensor]:
        """Learn from one batch, drawn by a generator of the step's own; gives the losses."""
        settings = self.settings
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        text = step >= settings.steps
        if step == settings.steps:
            # The tower that stays is the averaged one.
            self.student.load_state_dict(self.average.model.state_dict())
        count = settings.text_batch_size if text else settings.batch_size
        drawn = torch.randint(len(self.material.train), (count,), generator=generator)
        numbers = [self.material.train[index] for index in drawn.tolist()]
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(step)
        self.student.train()
        found = self._converse(numbers, generator) if text else self._look(numbers, generator)
        self.optimizer.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.student, step)
        return {name: loss.detach() for name, loss in found.items()}

    def _look(self, numbers: Sequence[int], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Losses of what the tower sees in views of images."""
        size = self.settings.sizes[int(torch.randint(len(self.settings.sizes), (), generator=generator))]
        views, _ = self._views(numbers, size, generator)
        taught = self.teacher(views)
        with self._autocast():
            seen = self.student.see(self._cut(views))
        return {
            "map": map_loss(seen.maps, taught.maps),
            **readout_losses(seen.readout, taught),
            "text": torch.zeros((), device=self.device),
        }

    def _converse(self, numbers: Sequence[int], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Losses of what is told of whole images; of altered ones, what they are rated and not what was said."""
        whole = (self.settings.side, self.settings.side)
        views, as_it_is = self._views(numbers, whole, generator)
        which = torch.randint(1 << 30, (len(numbers),), generator=generator).tolist()
        lesson = self._chapter(numbers, which, learned=as_it_is)
        taught = self.teacher(views)
        with self._autocast():
            with torch.no_grad():
                features = self.student.encode(self._cut(views))
            told = self.student.tell(features, lesson)
        return {
            "map": torch.zeros((), device=self.device),
            **readout_losses(told.readout, taught),
            "text": text_loss(told, lesson),
        }

    def _views(
        self, numbers: Sequence[int], size: tuple[int, int], generator: torch.Generator
    ) -> tuple[torch.Tensor, int]:
        """Views of images, and how many of them, the first, show an image as it is."""
        views = random_views(self.material.images[list(numbers)], size, generator)
        as_it_is = max(1, round(len(views) * (1 - self.settings.altered)))
        if as_it_is < len(views):
            views[as_it_is:] = altered(views[as_it_is:], generator)
        return views, as_it_is

    @torch.no_grad()
    def validate(self, step: int) -> Numbers:
        """Agreement of the averaged student's ratings with people's, as the part rates that learned last."""
        average = self.average.model
        is_text = step >= self.settings.steps
        return self.material.agreement(torch.cat(list(self._ratings(average, self.material.val, is_text))))

    def _ratings(self, student: Student, numbers: Sequence[int], is_text: bool) -> Iterator[torch.Tensor]:
        for start in range(0, len(numbers), AT_ONCE):
            part = numbers[start : start + AT_ONCE]
            with self._autocast():
                seen = student.see(self._cut(self.material.images[list(part)]))
                readout = seen.readout
                if is_text:
                    readout = student.tell(seen.features, self._chapter(part, [0] * len(part), len(part))).readout
            yield readout.ratings.float()

    def base(self) -> dict[str, torch.Tensor]:
        """The averaged weights under the published names, float16."""
        state = self.average.model.base.state_dict()
        return {key: tensor.half().cpu().contiguous() for key, tensor in state.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "student": self.student.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _cut(self, views: torch.Tensor) -> Cut:
        return cut(views, self.slicing, self.settings.max_slices)

    def _chapter(self, numbers: Sequence[int], which: Sequence[int], learned: int) -> Chapter:
        """`which` of each whole image's conversations, modulo their number; of the first `learned`, every answer."""
        counts = [len(self.material.conversations[number]) for number in numbers]
        chosen = zip(numbers, which, counts, strict=True)
        tokens = [self._tokens(number, index % count, self._whole.grid) for number, index, count in chosen]
        labels = [each.labels if row < learned else [] for row, each in enumerate(tokens)]
        return chapter(
            [each.ids for each in tokens], labels, self._whole.sizes, tokens[0].image_bounds, PAD_ID, self.device
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.autocast)
