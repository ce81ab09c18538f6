"""`m3agiqa report`: writes a page of verdicts, to look at, to try thresholds on, and to label images in."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from m3agiqa.cli import bars
from m3agiqa.cli.arguments import SEED
from m3agiqa.console import DONE, text, whole
from m3agiqa.errors import FetchError, UsageError
from m3agiqa.report import sources

if TYPE_CHECKING:
    from PIL import Image

    from m3agiqa.report.judged import Judged
    from m3agiqa.report.page.build import Page
    from m3agiqa.report.page.thumbnails import Find

HELP = "Write a page of verdicts that opens from the disk: look at images, try thresholds, label by keyboard."

#: Images that are fetched at a time.
FETCHES = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=sources.HELP)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="a new folder, or that of an earlier page"
    )
    parser.add_argument("--requests", type=Path, metavar="FILE", help=sources.REQUESTS_HELP)
    add_page_arguments(parser)
    parser.add_argument("--title", type=text, default="Verdicts")
    parser.add_argument(
        "--labels", type=whole(), default=200, metavar="N", help="propose about N images to label (default 200)"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="seed of the draw of those images (default 0)")


def add_page_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of every command that writes a page."""
    parser.add_argument(
        "--policy", default="default", metavar="NAME", help="the policy whose thresholds the page shows"
    )
    images = parser.add_mutually_exclusive_group()
    images.add_argument(
        "--images", type=Path, metavar="DIR", help="folder with the images: by path, name, or digest of the content"
    )
    images.add_argument(
        "--fetch",
        action="store_true",
        help="fetch the images from their URLs, within the limits of a worker's settings (M3AGIQA_FETCH_...)",
    )


def run(args: argparse.Namespace) -> int:
    from m3agiqa.policy import Policy
    from m3agiqa.report.page.build import Page

    page = Page(Policy.load(args.policy), args.title, labels=args.labels, seed=args.seed)
    print(write_page(args, page, list(sources.judged(args.source, args.requests)), args.output))
    return DONE


def write_page(args: argparse.Namespace, page: Page, images: Sequence[Judged], folder: Path) -> Path:
    """Write a page of images, found as `args` of `add_page_arguments` say. Returns the file to open.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    from m3agiqa.report.page.build import build

    at_once = FETCHES if args.fetch else None
    with _finder(args) as find, bars.shown("images") as progress:
        return build(images, folder, page, find, progress, at_once=at_once)


@contextmanager
def _finder(args: argparse.Namespace) -> Iterator[Find]:
    from m3agiqa.report.page.thumbnails import Folder, nowhere

    if args.fetch:
        with _fetching() as find:
            yield find
    elif args.images is None:
        yield nowhere
    elif not args.images.is_dir():
        raise UsageError(f"--images: {args.images} is no folder")
    else:
        yield Folder(args.images)


@contextmanager
def _fetching() -> Iterator[Find]:
    """Finds images as a worker does: guarded fetches, and decoders in processes of their own."""
    from m3agiqa.cutting import Cutter
    from m3agiqa.model.slicing import Slicing
    from worker.score.decoding.budget import Budget
    from worker.score.decoding.pool import Decoders
    from worker.score.fetch import Fetcher
    from worker.settings import Settings

    settings = Settings.from_environment()
    fetcher, budget = Fetcher(settings), Budget(settings.picture_budget_mib * 2**20)
    # Without slices: the whole image is all that is looked at.
    decoders = Decoders(
        settings.effective_decoders,
        cpu_s=settings.decode_timeout_s,
        waiting=FETCHES,
        max_pixels=settings.max_pixels,
        cutter=Cutter(Slicing(), ()),
    )

    def find(judged: Judged) -> Image.Image:
        if judged.image is None or "://" not in judged.image:
            raise FetchError("the source tells no address of the image")
        with budget.hold() as hold:
            data = fetcher.fetch(judged.image, hold)
            image = decoders.quick(data) or decoders.patient(data, hold)
        if judged.image_sha256 not in (None, image.info.sha256):
            raise FetchError("another image is at this address now")
        return image.rgb

    try:
        yield find
    finally:
        decoders.close()
