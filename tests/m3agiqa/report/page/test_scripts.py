"""Filters, the view in the URL, and labels: the parts of the page that need no browser."""

from __future__ import annotations

import csv
import io
from typing import Any

from tests.m3agiqa.report.page.samples import needs_node, run_js

pytestmark = needs_node

FILTER = ["data.js", "filter.js"]
LABEL = ["dom.js", "label.js"]
ITEMS = [
    {
        "id": "a",
        "decision": "accept",
        "now": "accept",
        "scores": {"quality": [4, "good", "A sharp CAT."]},
        "prompt": "one",
    },
    {"id": "b", "decision": "accept", "now": "review", "scores": {"quality": [2, "fair", ""]}, "prompt": "two"},
    {
        "id": "c",
        "decision": "reject",
        "now": "reject",
        "scores": {"quality": [1, "bad", ""], "authenticity": [3, "", ""]},
    },
    {"id": "d", "decision": "review", "now": "review", "scores": {}, "failure": ["fetch_refused", "404"]},
    {
        "id": "e",
        "decision": "review",
        "now": "review",
        "scores": {},
        "failure": ["decoder_lost", "gone"],
        "prompt": "one",
    },
]
for item in ITEMS:
    item |= {"reasons": [], "at": f"2026-01-0{6 - ord(item['id']) % 5}T00:00:00+00:00", "model": "m"}


def shown(**state: Any) -> str:
    """Ids of the images that a state shows; `a` is labelled reject, and `c` accept."""
    program = """
        Data.about = { aspects: ["quality", "authenticity"] };
        const labels = { a: "reject", c: "accept" };
        const state = { ...Filter.initial(), ...GIVEN.state };
        const found = Filter.apply(GIVEN.items, state, (id) => labels[id]);
        console.log(JSON.stringify(found.map(({ id }) => id).join("")));"""
    return run_js(FILTER, program, {"items": ITEMS, "state": state})


def test_images_are_filtered() -> None:
    assert shown() == "abc"
    assert shown(decision="review") == "b"
    assert shown(aspect="quality", min=1.5, max=4) == "ab"
    assert shown(aspect="authenticity") == "c"
    assert shown(min=3) == "ac"
    assert shown(model="other") == ""
    assert shown(q="cat sharp") == "a"
    assert shown(flips="any") == shown(flips="accept>review") == "b"
    assert shown(flips="accept>reject") == ""
    assert shown(label="none") == "b"
    assert shown(label="against") == "ac"
    assert shown(label="accept") == "c"


def test_failures_stand_apart_by_code() -> None:
    assert shown(view="failures") == "ed"
    assert shown(view="failures", code="fetch_refused") == "d"
    assert shown(view="failures", q="one", min=3) == "e"


def test_images_are_sorted_and_those_without_the_score_come_last_in_ascending_order() -> None:
    assert shown(sort="quality-up") == "cba"
    assert shown(sort="quality-down") == "abc"
    assert shown(sort="authenticity-up") == "cab"
    assert shown(sort="lowest-up") == "cba"
    assert shown(sort="decision-down") == "cba"
    assert shown(sort="constructor-up") == "abc"


def from_hash(text: str) -> dict[str, Any]:
    program = 'console.log(JSON.stringify(Filter.fromHash(GIVEN, ["quality", "authenticity"])));'
    return run_js(FILTER, program, text)


def test_the_url_keeps_the_view() -> None:
    program = """const first = Filter.initial();
        console.log(JSON.stringify([first, { ...first, ...GIVEN }].map(Filter.toHash)));"""
    state = {
        "view": "failures",
        "decision": "reject",
        "q": "a&b=c #é",
        "min": 1.5,
        "flips": "accept>review",
        "blind": True,
    }
    state["thresholds"] = {"quality": {"reject_below": 1, "review_below": 2.25}}
    first, text = run_js(FILTER, program, state)
    assert first == ""
    assert from_hash(text) == from_hash("") | state


def test_a_url_that_makes_no_sense_shows_all() -> None:
    nonsense = "view=x&decision=y&min=NaN&max=9&min=&aspect=toString&t.quality=3,1&t.authenticity=&label=%00&blind=2"
    assert from_hash(nonsense) == from_hash("")


def labels(program: str, items: list[dict[str, Any]], stored: object = ()) -> Any:
    """What `program` prints, with `labels` over a storage that holds `stored`."""
    setup = """
        const storage = { kept: GIVEN.stored, read() { return this.kept; }, write(entries) { this.kept = entries; } };
        const labels = Labels.create(GIVEN.items, "cafe", storage);
        const say = (value) => console.log(JSON.stringify(value));
        """
    return run_js(LABEL, setup + program, {"items": items, "stored": list(stored)})


PLANNED = [
    {"id": "x", "sha256": "1" * 64, "plan": ["near:quality", 0.5, 1]},
    {"id": "y", "plan": ["random", 0.125, 0]},
    {"id": "z", "plan": ["random", 0.125, 2]},
    {"id": "free"},
]


def rows(text: str) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in csv.DictReader(io.StringIO(text))}


def test_labels_are_exported_with_how_each_image_was_chosen() -> None:
    program = """labels.set(labels.next().id, "accept"); labels.set(labels.next().id, "skip");
        labels.set("free", "reject");
        say(labels.toCsv());"""
    text = labels(program, PLANNED)
    assert text.splitlines()[0] == "id,image_sha256,label,chosen,policy_digest,at,chance"
    found = rows(text)
    assert {name: (row["label"], row["chosen"], row["chance"]) for name, row in found.items()} == {
        "y": ("accept", "random", "0.125"),
        "x": ("skip", "near:quality", "0.5"),
        "free": ("reject", "free", ""),
    }
    assert found["x"]["image_sha256"] == "1" * 64
    assert {row["policy_digest"] for row in found.values()} == {"cafe"}
    assert all(row["at"].startswith("20") for row in found.values())


def test_a_proposed_image_that_was_picked_out_of_turn_is_free_until_all_before_it_have_labels() -> None:
    program = """labels.set("z", "reject"); labels.set("y", "accept"); const early = labels.toCsv();
        labels.set("x", "accept"); say([early, labels.toCsv(), labels.next() ?? null]);"""
    early, late, following = labels(program, PLANNED)
    assert {name: row["chosen"] for name, row in rows(early).items()} == {"z": "free", "y": "random"}
    assert rows(late)["z"]["chosen"] == "random"
    assert following is None


def test_undo_takes_back_one_label_after_the_other() -> None:
    program = """labels.set("x", "accept"); labels.set("y", "skip"); labels.set("x", "reject");
        say([labels.undo(), labels.get("x"), labels.undo(), labels.get("y") ?? null, labels.undo(),
            labels.undo() ?? null, storage.kept]);"""
    assert labels(program, PLANNED) == ["x", "accept", "y", None, "x", None, []]


def test_labels_are_imported_those_of_other_images_kept_and_wrong_rows_told() -> None:
    text = (
        "\ufeffid,image_sha256,label,chosen,policy_digest,at,chance\r\n"
        'x,,accept,free,old,2026-01-01,\r\n"a ""b"",\nc",77,reject,random,old,2026-01-02,0.25\nz,,maybe,,,,\n'
    )
    said, exported = labels(f"say([labels.fromCsv({text!r}), labels.toCsv()]);".replace("\\ufeff", "\\uFEFF"), PLANNED)
    assert said == (
        "2 labels taken in. 1 of them are of images that are not on this page; an export keeps them. "
        "1 row made no sense, the first is row 4."
    )
    found = rows(exported)
    assert found["x"]["label"] == "accept"
    other = found['a "b",\nc']
    assert (other["chosen"], other["chance"], other["policy_digest"], other["at"]) == (
        "random",
        "0.25",
        "old",
        "2026-01-02",
    )


def test_what_was_exported_can_be_imported_again() -> None:
    program = """labels.set("y", "accept"); labels.set('__proto__', "reject"); labels.set('say "é", now', "skip");
        const text = labels.toCsv();
        const again = Labels.create(GIVEN.items, "cafe", { read: () => [], write() {} });
        again.fromCsv(text);
        say([text, again.toCsv()]);"""
    first, second = labels(program, [*PLANNED, {"id": "__proto__"}, {"id": 'say "é", now'}])
    assert first == second
    assert len(rows(first)) == 3


def test_another_table_is_no_file_of_labels() -> None:
    assert (
        labels('say([labels.fromCsv("a,b\\n1,2"), labels.fromCsv("")]);', PLANNED)
        == ["This is no labels.csv: it has no column id, label."] * 2
    )


def test_a_text_is_cut_between_characters() -> None:
    assert run_js(
        LABEL, "console.log(JSON.stringify(GIVEN.map((text) => cut(text, 3))))", ["abc", "abcd", "😀😀😀", "😀😀😀😀"]
    ) == [
        "abc",
        "abc…",
        "😀😀😀",
        "😀😀😀…",
    ]
