"""Clients of teachers: Gemini, and any server that speaks OpenAI's protocol."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Any, Protocol

from m3agiqa.errors import ConfigError

#: Seconds that a teacher has for one answer.
TIMEOUT_S = 120.0


class TeacherError(Exception):
    """A question has no answer; the message is written into the results."""


class TeacherBusy(TeacherError):
    """The teacher is limited, broken, or out of reach: ask again, after `retry_after_s` if the teacher named that."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class KeyRefused(TeacherError):
    """The teacher refused this key; it may take another one."""


class Refused(TeacherError):
    """The model refused to describe this image, perhaps only this time."""


class Unanswerable(TeacherError):
    """The teacher did not accept the request: asking again would not help."""


class Teacher(Protocol):
    #: Provider and model, as results show them.
    name: str

    def ask(self, key: str, image: bytes, mime: str, text: str) -> str:
        """The model's answer, which should be JSON.

        Raises:
            TeacherError: there is no answer; its subclass says what to do.
            ConfigError: there is no such model.
        """
        ...


class _Clients:
    """One client for each key, shared by all threads; an unused client closes its connections."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._make = make
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()

    def for_key(self, key: str) -> Any:
        with self._lock:
            if key not in self._made:
                self._made[key] = self._make(key)
            return self._made[key]


class Gemini:
    """Google's API through `google-genai`."""

    def __init__(self, model: str, base_url: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.name = f"gemini:{model}"
        self._model = model
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._clients = _Clients(self._connect)

    def ask(self, key: str, image: bytes, mime: str, text: str) -> str:
        from google.genai import errors, types

        try:
            answer = self._clients.for_key(key).models.generate_content(
                model=self._model,
                contents=[types.Part.from_bytes(data=image, mime_type=mime), text],
                config=types.GenerateContentConfig(response_mime_type="application/json"),
            )
        except errors.APIError as error:
            headers = getattr(error.response, "headers", None) or {}
            wrong_key = error.code == 400 and "API key" in (error.message or "")
            raise _failure(401 if wrong_key else error.code, headers.get("retry-after"), self.name) from None
        except Exception as error:
            # It connects by httpx, or by httpx2 in newer versions; their errors have no common class.
            if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
                raise TeacherBusy(f"no connection ({type(error).__name__})") from error
            raise
        if not answer.text:
            feedback = answer.prompt_feedback.block_reason if answer.prompt_feedback else None
            reason = feedback or (answer.candidates[0].finish_reason if answer.candidates else None)
            raise Refused(f"refused ({getattr(reason, 'value', reason)})")
        return str(answer.text)

    def _connect(self, key: str) -> Any:
        from google import genai
        from google.genai import types

        options = types.HttpOptions(base_url=self._base_url, timeout=int(self._timeout_s * 1000))
        return genai.Client(api_key=key, http_options=options)


class OpenAICompatible:
    """Any server with `/chat/completions`, through `openai`."""

    def __init__(self, model: str, base_url: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.name = f"openai:{model}"
        self._model = model
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._clients = _Clients(self._connect)

    def ask(self, key: str, image: bytes, mime: str, text: str) -> str:
        import openai

        url = f"data:{mime};base64,{base64.b64encode(image).decode()}"
        content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
        try:
            answer = self._clients.for_key(key).chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": content}],
                response_format={"type": "json_object"},
            )
        except openai.APIConnectionError as error:
            raise TeacherBusy(f"no connection ({type(error).__name__})") from None
        except openai.APIStatusError as error:
            raise _failure(error.status_code, error.response.headers.get("retry-after"), self.name) from None
        choice = answer.choices[0]
        if choice.message.refusal or choice.finish_reason == "content_filter" or not choice.message.content:
            raise Refused(f"refused ({choice.finish_reason})")
        return str(choice.message.content)

    def _connect(self, key: str) -> Any:
        import openai

        return openai.OpenAI(api_key=key, base_url=self._base_url, timeout=self._timeout_s, max_retries=0)


def _failure(status: int, retry_after: str | None, name: str) -> Exception:
    """The error for an HTTP status. It does not show the body, which may quote the request."""
    if status in (408, 409, 429) or status >= 500:
        try:
            seconds = None if retry_after is None else max(0.0, float(retry_after))
        except ValueError:  # a date
            seconds = None
        return TeacherBusy(f"status {status}", seconds)
    if status in (401, 403):
        return KeyRefused(f"status {status}")
    if status == 404:
        return ConfigError(f"{name}: there is no such model, or the base URL is wrong (status 404)")
    return Unanswerable(f"status {status}")
