"""A server on loopback that speaks the protocols of Gemini and OpenAI, with every way they fail."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from PIL import Image

EXPLANATIONS = {"quality_explanation": "It is sharp.", "alignment_explanation": "It fits.", "more": 1}
MODEL = "eagle-1"


@dataclass
class Asked:
    """One question as it arrived."""

    image: str
    key: str
    text: str
    size: tuple[int, int]


@dataclass
class TeacherServer:
    """Knows an image by the `thing N` of its prompt; `script` holds what it does first for each, in order.

    A step is a status, `broken`, `refusal`, `empty`, `hang`, or a text to answer with; after them it answers well.
    """

    script: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    #: Keys it does not accept, and those that are limited for good.
    refused: set[str] = field(default_factory=set)
    asked: list[Asked] = field(default_factory=list)
    #: Set when a question hangs.
    hanging: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.answer(self, json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that is killed hangs up in the middle: no news."""

        self._over = threading.Event()
        self._lock = threading.Lock()
        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def times(self) -> Counter[str]:
        """How often each image was asked about."""
        return Counter(asked.image for asked in self.asked)

    def answer(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        gemini = ":generateContent" in handler.path
        text, image, key = _gemini(handler, body) if gemini else _openai(handler, body)
        model = re.findall(r"models/([^:]+):", handler.path)[0] if gemini else body["model"]
        found = re.search(r"thing \d+", text)
        assert found is not None
        name = found[0]
        with Image.open(io.BytesIO(base64.b64decode(image))) as image:
            size = image.size
        with self._lock:
            self.asked.append(Asked(name, key, text, size))
            step = self.script[name].pop(0) if self.script[name] else None
        if key in self.refused:
            step = 401
        if model != MODEL:
            step = 404
        if step == "hang":
            self.hanging.set()
            self._over.wait()
        elif isinstance(step, int):
            self._send(handler, step, {"error": {"code": step, "message": "no", "status": "X"}})
        else:
            self._send(handler, 200, _gemini_answer(step) if gemini else _openai_answer(step))

    def _send(self, handler: BaseHTTPRequestHandler, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(content)))
        if status == 429:
            handler.send_header("retry-after", "0")
        handler.end_headers()
        handler.wfile.write(content)


def _text(step: Any) -> str:
    good = json.dumps(EXPLANATIONS)
    return {None: good, "broken": good[:-5], "fenced": f"Here:\n```json\n{good}\n```"}.get(step, step)


def _gemini(handler: BaseHTTPRequestHandler, body: Any) -> tuple[str, str, str]:
    parts = body["contents"][0]["parts"]
    [data] = [part["inlineData"]["data"] for part in parts if "inlineData" in part]
    [text] = [part["text"] for part in parts if "text" in part]
    # Its own base64 is the one for URLs.
    return text, data.replace("-", "+").replace("_", "/"), handler.headers["x-goog-api-key"]


def _gemini_answer(step: Any) -> object:
    if step == "refusal":
        return {"promptFeedback": {"blockReason": "SAFETY"}}
    if step == "empty":
        return {"candidates": [{"finishReason": "SAFETY"}]}
    return {"candidates": [{"content": {"role": "model", "parts": [{"text": _text(step)}]}, "finishReason": "STOP"}]}


def _openai(handler: BaseHTTPRequestHandler, body: Any) -> tuple[str, str, str]:
    assert body["response_format"] == {"type": "json_object"}
    text, image = body["messages"][0]["content"]
    return text["text"], image["image_url"]["url"].partition(",")[2], handler.headers["authorization"].split()[1]


def _openai_answer(step: Any) -> object:
    message: dict[str, object] = {"role": "assistant", "content": _text(step), "refusal": None}
    if step in ("refusal", "empty"):
        message |= {"content": None, "refusal": "I will not." if step == "refusal" else None}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
