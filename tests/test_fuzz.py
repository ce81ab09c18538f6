"""Whatever comes in, only what is meant for it comes out: a value, or a typed failure."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from m3agiqa.config import CFG_DIR
from m3agiqa.contract import Failure, ScoreRequest, Verdict
from m3agiqa.errors import ConfigError, RequestInvalid
from m3agiqa.profile import ModelProfile
from m3agiqa.prompts import neutralised
from producers import keys, message
from worker.moderator import understood
from worker.tasks import _dead

#: As `json.loads` gives them, halves of surrogate pairs and all.
TEXT = st.text(st.characters(), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(sorted(ScoreRequest.model_fields))
GOOD = {"image_url": "https://host/a.png", "prompt": "p", "request_id": "r", "metadata": {"k": [1, "v"]}}
PROFILE = (CFG_DIR / "models" / "published.yaml").read_text(encoding="utf-8")

many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(st.dictionaries(FIELDS | TEXT, JSON, max_size=5))
def test_a_request_is_valid_or_refused(changes: dict[str, Any]) -> None:
    # given anything in place of some fields
    payload = {**GOOD, **changes}
    request, invalid = understood(payload)
    # then it is a request, which survives the wire, or it says why not
    if invalid is None:
        assert request is not None
        assert ScoreRequest.model_validate_json(request.model_dump_json()) == request
    else:
        with pytest.raises(RequestInvalid):
            ScoreRequest.parse(payload)
        # and can be written down all the same, as an answer or as a dead letter
        assert request is None or request.model_dump_json()
        assert _dead(keys.SCORE_QUEUE, payload, Failure.of(invalid), "task").model_dump_json()


@many
@given(JSON)
def test_what_is_no_object_is_refused(payload: Any) -> None:
    for model in (ScoreRequest, Verdict):
        with pytest.raises(ValueError, match=r"."):
            model.model_validate(payload)


@many
@given(data=st.data())
@example(data=None)
def test_a_damaged_message_is_understood_or_refused(data: Any) -> None:
    raw = message.envelope(keys.SCORE_QUEUE, GOOD, task_id="x").encode()
    if data is not None:
        at, length = data.draw(st.integers(0, len(raw))), data.draw(st.integers(0, 20))
        raw = raw[:at] + data.draw(st.binary(max_size=20)) + raw[at + length :]
    with suppress(RequestInvalid):
        parsed = message.parse(raw, keys.SCORE_QUEUE)
        assert parsed.task_id.isascii()
        understood(parsed.payload)


@many
@given(part=st.sampled_from(["headers", "properties", ""]), name=TEXT, value=JSON, data=st.data())
def test_a_message_with_anything_in_any_place(part: str, name: str, value: Any, data: st.DataObject) -> None:
    made = json.loads(message.envelope(keys.SCORE_QUEUE, GOOD, task_id="x"))
    where = made[part] if part else made
    where[data.draw(st.sampled_from([*where, name]))] = value
    with suppress(RequestInvalid):
        message.parse(json.dumps(made), keys.SCORE_QUEUE)


@many
@given(JSON)
def test_a_body_of_anything(body: Any) -> None:
    made = json.loads(message.envelope(keys.SCORE_QUEUE, GOOD, task_id="x"))
    for content in (body, [[body], {}, {}], [[{"request_id": body}], {}, {"chain": body}]):
        made["body"] = base64.b64encode(json.dumps(content).encode()).decode()
        with suppress(RequestInvalid):
            payload = message.parse(json.dumps(made), keys.SCORE_QUEUE).payload
            _, invalid = understood(payload)
            assert _dead(keys.SCORE_QUEUE, payload, Failure.of(invalid or RequestInvalid()), "x").model_dump_json()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_no_json_can_pass_on_are_refused(number: str) -> None:
    body = f'[[{{"image_url": "https://h/a.png", "prompt": "", "metadata": {{"k": {number}}}}}], {{}}, {{}}]'
    made = json.loads(message.envelope(keys.SCORE_QUEUE, GOOD, task_id="x"))
    made["body"] = base64.b64encode(body.encode()).decode()
    with pytest.raises(RequestInvalid, match="not JSON"):
        message.parse(json.dumps(made), keys.SCORE_QUEUE)


@many
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(RequestInvalid):
        message.parse(raw, keys.SCORE_QUEUE)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_profile_loads_or_is_a_wrong_configuration(data: st.DataObject, tmp_path: Path) -> None:
    at, length = data.draw(st.integers(0, len(PROFILE))), data.draw(st.integers(0, 40))
    file = tmp_path / "profile.yaml"
    damage = data.draw(st.binary(max_size=12) | TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
    file.write_bytes(PROFILE[:at].encode() + damage + PROFILE[at + length :].encode())
    with suppress(ConfigError):
        ModelProfile.load(str(file))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(ModelProfile.model_fields)), value=JSON)
def test_a_profile_with_anything_in_any_place(name: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "profile.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(PROFILE), name: value}, allow_unicode=False), encoding="utf-8")
    with suppress(ConfigError):
        ModelProfile.load(str(file))


@many
@given(st.text(st.characters()))
def test_a_neutralised_prompt_can_be_written_and_stays_so(prompt: str) -> None:
    once = neutralised(prompt)
    assert neutralised(once) == once
    assert once.encode().decode() == once
