"""What is wrong with a data set, in words."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from m3agiqa.contract import Aspect, Rating
from m3agiqa.errors import DataError, M3AGIQAError
from m3agiqa.files import read_image
from m3agiqa.progress import Progress, tracked, unseen
from m3agiqa.quoting import PATH_CHARS, quoted
from m3agiqa.train.data.conversations import ConversationRecord, rating_word, read_conversations
from m3agiqa.train.data.dataset import LABELS, PARTS, DataSet, Entry

#: Lowest and highest score of the scale that heads are trained on.
LOWEST, HIGHEST = 0.0, 5.0
#: Names that a sentence shows, and characters of each, with what is wrong with it.
_SHOWN, _NAME_CHARS = 3, 500


def check_data(
    data: DataSet,
    *,
    aspect: Aspect | None = None,
    label: str | None = None,
    scale: float = 1.0,
    progress: Progress = unseen,
) -> list[str]:
    """One sentence for each kind of problem; an empty list where there is none.

    Args:
        aspect: the rating words of the conversation files must agree with this aspect's scores.
        label: column of its scores; None takes the one that the data sets use.
        scale: factor that brings scores to 0..5.
        progress: told the share of the images that were opened.
    """
    return [
        *(data.wrong or _present([None if data.entries else "the table has no rows"])),
        *_check_entries(data.entries),
        *_check_images(data, progress),
        *_check_labels(data, [label] if label else _label_columns(data, aspect), scale),
        *_check_conversations(data, aspect, label, scale),
    ]


def _check_entries(entries: Sequence[Entry]) -> list[str]:
    counts = Counter(entry.name for entry in entries)
    prompts: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        prompts[entry.name].add(entry.prompt)
    found = [
        _sentence([name for name, count in counts.items() if count > 1], "stands in the table more than once"),
        _sentence([name for name in prompts if len(prompts[name]) > 1], "has several prompts"),
        _sentence([entry.name for entry in entries if not entry.prompt], "has no prompt"),
        _sentence([entry.name for entry in entries if Path(entry.name).name != entry.name], "is no plain file name"),
    ]
    return _present(found)


def _check_images(data: DataSet, progress: Progress) -> list[str]:
    try:
        present = {path.name for path in data.images.iterdir()}
    except OSError as error:
        return [f"there is no folder {quoted(data.images, PATH_CHARS)} with the images: {error.strerror}"]
    missing, unreadable, contents = [], [], defaultdict(list)
    entries = {entry.name: entry for entry in data.entries}.values()
    for entry in tracked(entries, len(entries), progress):
        try:
            contents[read_image(data.image(entry.name)).info.sha256].append(entry.name)
        except M3AGIQAError as error:
            if entry.name and os.path.lexists(data.image(entry.name)):
                unreadable.append(f"{entry.name} ({error})")
            else:
                missing.append(entry.name)
    return _present(
        [
            _sentence(missing, f"is not in {data.images}"),
            _sentence(unreadable, "cannot be read"),
            _sentence([" = ".join(names) for names in contents.values() if len(names) > 1], "same content", "group"),
            _sentence(sorted(present - {entry.name for entry in data.entries}), "is in no table"),
        ]
    )


def _label_columns(data: DataSet, aspect: Aspect | None) -> list[str]:
    wanted = LABELS.values() if aspect is None else [LABELS[aspect]]
    return [column for columns in wanted for column in columns if column in data.columns]


def _check_labels(data: DataSet, columns: Sequence[str], scale: float) -> list[str]:
    if not columns:
        return [f"no column holds scores; there are {', '.join(data.columns)}"]
    found: list[str | None] = []
    for column in columns:
        found += _check_numbers(data.entries, column)
        labels = _labels(data, column, scale)
        known = {name: label for name, label in labels.items() if label is not None}
        outside = [name for name, label in known.items() if not LOWEST <= label <= HIGHEST]
        hint = ""
        if outside and scale == 1 and min(known.values()) >= 0 and max(known.values()) <= 100:
            hint = f" (they run up to {max(known.values()):g}; a label scale of 0.05 brings 0..100 to 0..5)"
        empty = dict.fromkeys(entry.name for entry in data.entries if not entry.values.get(column))
        found.append(_sentence(list(empty), f"has no {column}"))
        found.append(_sentence(outside, f"has a {column} outside {LOWEST:g}..{HIGHEST:g}{hint}"))
    return _present(found)


def _check_numbers(entries: Sequence[Entry], column: str) -> list[str]:
    wrong: list[str] = []
    for entry in entries:
        try:
            entry.label(column)
        except DataError as error:
            wrong.append(str(error))
    more = [f"{len(wrong) - _SHOWN} more cells of {column} hold no number"] if len(wrong) > _SHOWN else []
    return wrong[:_SHOWN] + more


def _labels(data: DataSet, column: str, scale: float) -> dict[str, float | None]:
    """Scores by image; None where a cell is empty or holds no number."""
    labels: dict[str, float | None] = {}
    for entry in data.entries:
        try:
            labels[entry.name] = entry.label(column, scale)
        except DataError:
            labels[entry.name] = None
    return labels


def _check_conversations(data: DataSet, aspect: Aspect | None, label: str | None, scale: float) -> list[str]:
    found: list[str] = []
    seen: Counter[str] = Counter()
    for part in PARTS:
        path = data.folder / f"{part}.json"
        if not path.is_file():
            continue
        try:
            items = read_conversations(path)
        except DataError as error:
            found.append(str(error))
            continue
        seen.update({item.image for item in items})
        found += _check_items(items, data, path.name)
        if aspect is not None:
            found += _check_words(items, data, path.name, data.label_column(aspect, label), scale)
    twice = [name for name, count in seen.items() if count > 1]
    return [*found, *_present([_sentence(twice, "is in more than one part of the split")])]


def _check_items(items: Sequence[ConversationRecord], data: DataSet, file: str) -> list[str]:
    known = {entry.name for entry in data.entries}
    counts = Counter(item.image for item in items)
    return _present(
        [
            _sentence([name for name in counts if name not in known], f"of {file} is in no table"),
            _sentence([name for name, count in counts.items() if count > 1], f"stands in {file} more than once"),
            _sentence([item.image for item in items if not item.description.strip()], f"of {file} has no description"),
            _sentence([item.image for item in items if item.word not in list(Rating)], f"of {file} has no rating word"),
        ]
    )


def _check_words(items: Sequence[ConversationRecord], data: DataSet, file: str, column: str, scale: float) -> list[str]:
    """Compare rating words with the aspect's own scores: published alignment files follow the quality's by mistake."""
    labels = _labels(data, column, scale)
    wrong = []
    for item in items:
        mos = labels.get(item.image)
        if mos is not None and item.word in list(Rating) and item.word != rating_word(mos):
            wrong.append(item.image)
    return _present([_sentence(wrong, f"of {file} has another rating word than its {column} says")])


def _sentence(names: Sequence[str], what: str, noun: str = "image") -> str | None:
    """A sentence that says `what` about `names` and shows the first of them; None if there are none."""
    if not names:
        return None
    shown = ", ".join(quoted(name, _NAME_CHARS) or "(no name)" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({shown}{more}): {what}"


def _present(found: Iterable[str | None]) -> list[str]:
    return [sentence for sentence in found if sentence is not None]
