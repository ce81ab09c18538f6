"""Whatever comes in, only what is meant for it comes out: a value, or a typed failure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis

from m3agiqa.config import SHIPPED_DIR
from m3agiqa.contract import Failure, ScoreRequest, Verdict
from m3agiqa.errors import ConfigError, M3AGIQAError, NewerVersion, RequestInvalid
from m3agiqa.profile import ModelProfile
from m3agiqa.prompts import neutralised
from m3agiqa.queue import inbox, keys
from m3agiqa.queue.dead import KEPT_CHARS, DeadLetter, DeadLetters
from m3agiqa.queue.ledger import Ledger
from worker.celery_patches import wakeups

#: As `json.loads` gives them, halves of surrogate pairs and all.
TEXT = st.text(st.characters(), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(sorted(ScoreRequest.model_fields))
GOOD = {"image_url": "https://host/a.png", "prompt": "p", "request_id": "r", "metadata": {"k": [1, "v"]}}
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
#: Of each queue, what follows a request's id in its tasks' names, and such a name.
DELIVERY = {keys.SCORE_QUEUE: "", keys.DELIVER_QUEUE: ":(callback|s3)"}
EXAMPLES = {keys.SCORE_QUEUE: "r", keys.DELIVER_QUEUE: "r:s3"}
QUEUES = st.sampled_from(list(DELIVERY))
PROFILE = (SHIPPED_DIR / "models" / "published.yaml").read_text(encoding="utf-8")

many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    ledger = Ledger(redis_url)
    yield ledger
    ledger.close()


def take_in(ledger: Ledger, redis: Redis, raw: str | bytes) -> ScoreRequest | DeadLetter | str:
    """What becomes of an entry that lies in an empty Redis: exactly one of a task, a dead letter, and one for later."""
    redis.flushall()
    redis.lpush(keys.inbox(3), raw)
    assert ledger.admit(3) == 1
    assert redis.llen(keys.inbox(3)) == 0
    found: list[ScoreRequest | DeadLetter | str] = [*DeadLetters(ledger.connection).all()]
    found += map(str, redis.lrange(keys.newer(3), 0, -1))
    for task in map(str, redis.lrange("score:3", 0, -1)):
        with ledger.claim(task) as claim:
            found.append(claim.request)
    [only] = found
    return only


def damaged(raw: bytes, data: st.DataObject) -> bytes:
    """`raw` with anything in place of some of its bytes."""
    at, length = data.draw(st.integers(0, len(raw))), data.draw(st.integers(0, 20))
    return raw[:at] + data.draw(st.binary(max_size=20)) + raw[at + length :]


def asked(text: str) -> ScoreRequest | M3AGIQAError:
    """The request that an entry of the inbox is, or why it is none."""
    try:
        return inbox.parse(text, 3)
    except (RequestInvalid, NewerVersion) as refused:
        return refused


@many
@given(changes=st.dictionaries(FIELDS | TEXT, JSON, max_size=5))
def test_a_request_is_valid_or_refused(changes: dict[str, Any]) -> None:
    # given anything in place of some fields
    request = asked(json.dumps({**GOOD, **changes}))
    if isinstance(request, ScoreRequest):
        # then it is a request, which survives the wire, and is known again
        again = inbox.parse(request.model_dump_json(exclude_none=True), 3)
        assert again == request
        assert again.fingerprint == request.fingerprint
    else:
        # or it is said why not, in few words
        assert str(request).isprintable()
        assert len(str(request)) < 4_000


@many
@given(changes=st.dictionaries(FIELDS | TEXT, JSON, max_size=5))
@example(changes={"version": "2.0"})
@example(changes={"version": "2.0", "image_url": 1})
@example(changes={"version": "1.9", "colour": "red"})
@example(changes={"request_id": "r", "priority": 9, "callback_url": "https://host/hook", "image_url": None})
@example(changes={"prompt": "\ud800", "request_id": "\udfff"})
@example(changes={"metadata": {"\ud800": 1e308}})
@example(changes={"metadata": {"k": 10**400}})
@example(changes={"retry_failed": False})
def test_an_entry_becomes_a_task_or_a_dead_letter(changes: dict[str, Any], ledger: Ledger, redis: Redis) -> None:
    # given anything in place of some fields
    fields = {**GOOD, **changes}
    text = json.dumps(fields)
    request = asked(text)
    # when a worker takes it in
    found = take_in(ledger, redis, text)
    # then it is what it asks for, less what is made up anew each time
    if isinstance(request, ScoreRequest):
        assert isinstance(found, ScoreRequest)
        made = {name for name in ("request_id", "submitted_at") if fields.get(name) is None}
        # As the ledger writes it, it names the version that its fields need.
        written = ScoreRequest.parse(json.loads(request.to_json()))
        assert found.model_dump(exclude=made) == written.model_dump(exclude=made)
    elif isinstance(request, NewerVersion):
        assert found == text
    else:
        assert isinstance(found, DeadLetter)
        assert (found.reason, found.message) == (str(request), text)
        # and who can be told is told
        if found.request_id is not None:
            verdict = Verdict.model_validate_json(str(redis.get(keys.result(found.request_id))))
            assert verdict.error == Failure.from_error(request)


@many
@given(raw=st.binary(max_size=200) | TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(raw=b"")
@example(raw=b"\xff")
@example(raw=b"\x00")
@example(raw=b"[" * 100_000)
@example(raw=b"{" + b'"k":{' * 100_000)
@example(raw=b"9" * 10_000)
@example(raw=b'{"image_url":"https://host/a.png","prompt":"\xed\xa0\x80"}')
def test_any_bytes_become_a_dead_letter(raw: bytes, ledger: Ledger, redis: Redis) -> None:
    letter = take_in(ledger, redis, raw)
    assert isinstance(letter, DeadLetter)
    assert letter.code == RequestInvalid.code
    assert letter.message == raw.decode(errors="backslashreplace")[:KEPT_CHARS]
    assert letter.cut == (letter.message.encode() != raw)


@many
@given(data=st.data())
def test_a_damaged_entry_becomes_something(data: st.DataObject, ledger: Ledger, redis: Redis) -> None:
    # given an entry with anything in place of some bytes
    raw = damaged(json.dumps(GOOD).encode(), data)
    request = asked(raw.decode(errors="surrogateescape"))
    # when a worker takes it in
    found = take_in(ledger, redis, raw)
    # then it is the task that it still asks for, or is kept as it is: for a later version, or for people
    if isinstance(request, ScoreRequest):
        assert isinstance(found, ScoreRequest)
        made = {"request_id", "submitted_at"}
        assert found.model_dump(exclude=made) == request.model_dump(exclude=made)
    elif isinstance(request, NewerVersion):
        assert found == raw.decode()
    else:
        assert isinstance(found, DeadLetter)
        assert (found.reason, found.message) == (str(request), raw.decode(errors="backslashreplace"))


@many
@given(JSON)
def test_what_is_no_object_is_refused(payload: Any) -> None:
    for model in (ScoreRequest, Verdict):
        with pytest.raises(ValueError, match=r"."):
            model.model_validate(payload)
    if not isinstance(payload, dict):
        with pytest.raises(RequestInvalid, match="must be a JSON object"):
            inbox.parse(json.dumps(payload), 3)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_no_json_can_pass_on_are_refused(number: str) -> None:
    with pytest.raises(RequestInvalid, match="not JSON"):
        inbox.parse(f'{{"image_url": "https://h/a.png", "prompt": "", "metadata": {{"k": {number}}}}}', 3)


def named(raw: bytes, queue: str) -> str | None:
    """The name in a message, after checking that it is one, and that what Celery sees carries it."""
    name = wakeups.name_in(raw, queue)
    if name is not None:
        assert re.fullmatch(NAME + DELIVERY[queue], name)
        assert wakeups.name_in(wakeups.message(queue, 3, name).encode(), queue) == name
    return name


@many
@given(queue=QUEUES, data=st.data())
def test_a_name_is_found_by_itself_and_in_its_message(queue: str, data: st.DataObject) -> None:
    name = data.draw(st.from_regex(NAME + DELIVERY[queue], fullmatch=True))
    assert named(name.encode(), queue) == name


@many
@given(queue=QUEUES, raw=st.binary(max_size=200))
@example(queue=keys.SCORE_QUEUE, raw=b"r\n")
@example(queue=keys.SCORE_QUEUE, raw=b"a" * 129)
@example(queue=keys.SCORE_QUEUE, raw=b"r:callback")
@example(queue=keys.DELIVER_QUEUE, raw=b"r")
@example(queue=keys.DELIVER_QUEUE, raw=b"r:mail")
@example(queue=keys.SCORE_QUEUE, raw=b"[" * 4_000)
@example(queue=keys.SCORE_QUEUE, raw=b'{"headers":' * 300)
@example(queue=keys.SCORE_QUEUE, raw=b'{"headers": {"id": "' + b"9" * 4_000 + b'"}}')
@example(queue=keys.SCORE_QUEUE, raw=b'{"headers": {"id": ' + b"9" * 4_000 + b"}}")
@example(queue=keys.SCORE_QUEUE, raw=b'{"headers": {"id": ["r"]}}')
def test_any_bytes_name_a_task_or_nothing(queue: str, raw: bytes) -> None:
    if (name := named(raw, queue)) is not None:
        assert raw == name.encode()


@many
@given(queue=QUEUES, data=st.data())
def test_a_damaged_message_names_a_task_or_nothing(queue: str, data: st.DataObject) -> None:
    found = named(damaged(wakeups.message(queue, 3, EXAMPLES[queue]).encode(), data), queue)
    assert found is None or re.fullmatch(NAME + DELIVERY[queue], found)


@many
@given(queue=QUEUES, part=st.sampled_from(["headers", "properties", ""]), name=TEXT, value=JSON, data=st.data())
def test_a_message_with_anything_in_any_place_names_its_task_or_nothing(
    queue: str, part: str, name: str, value: Any, data: st.DataObject
) -> None:
    made = json.loads(wakeups.message(queue, 3, EXAMPLES[queue]))
    where = made[part] if part else made
    changed = data.draw(st.sampled_from([*where, name]))
    where[changed] = value
    found = named(json.dumps(made).encode(), queue)
    # only its name is read: whatever else it holds changes nothing
    if (part, changed) not in (("headers", "id"), ("", "headers")):
        assert found == EXAMPLES[queue]


def loaded(file: Path) -> ModelProfile | ConfigError:
    """The profile in a file, or what is wrong with it."""
    try:
        return ModelProfile.load(str(file))
    except ConfigError as wrong:
        return wrong


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_profile_loads_or_is_a_wrong_configuration(data: st.DataObject, tmp_path: Path) -> None:
    at, length = data.draw(st.integers(0, len(PROFILE))), data.draw(st.integers(0, 40))
    file = tmp_path / "profile.yaml"
    damage = data.draw(st.binary(max_size=12) | TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
    file.write_bytes(PROFILE[:at].encode() + damage + PROFILE[at + length :].encode())
    found = loaded(file)
    assert isinstance(found, ModelProfile) or str(found).startswith(f"{file}: ")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(ModelProfile.model_fields)), value=JSON)
def test_a_profile_with_anything_in_any_place(name: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "profile.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(PROFILE), name: value}, allow_unicode=False), encoding="utf-8")
    found = loaded(file)
    assert isinstance(found, ModelProfile) or str(found).startswith(f"{file}: ")


@many
@given(st.text(st.characters()))
def test_a_neutralised_prompt_can_be_written_and_stays_so(prompt: str) -> None:
    once = neutralised(prompt)
    assert neutralised(once) == once
    assert once.encode().decode() == once
