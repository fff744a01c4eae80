"""A server of images on this machine that speaks both families, and does what it is told to, well or badly."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from idtool.media.images import encode

KEY = "sk-test-0123456789abcdef"


@dataclass
class Sent:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    fields: dict[str, Any]
    """The JSON body, or the text fields of the form."""
    files: list[tuple[str, bytes]]
    at: float = field(default_factory=time.monotonic)


@dataclass
class Say:
    """A response."""

    status: int = 200
    payload: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """In place of `payload` as JSON."""
    wait: float = 0.0
    """Seconds before it."""
    drip: float = 0.0
    """Seconds between single bytes."""


class ImageServer:
    """Answers with `script(sent, number of requests before)`; remembers what it was sent."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.script: Callable[[Sent, int], Say] = lambda sent, before: Say()
        self.under_way, self.most_under_way = 0, 0
        self._lock = threading.Lock()
        self.port = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def answer(self, sent: Sent) -> Say:
        with self._lock:
            before = len(self.sent)
            self.sent.append(sent)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            say = self.script(sent, before)
            time.sleep(say.wait)
            return say
        finally:
            with self._lock:
                self.under_way -= 1


@contextmanager
def serving() -> Iterator[ImageServer]:
    """A server on a free port of 127.0.0.1."""
    state = ImageServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(Sent("GET", self.path, dict(self.headers), {}, []))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = self.headers.get("Content-Type", "")
            fields, files = (json.loads(body), []) if kind == "application/json" else _form(kind, body)
            self._answer(Sent("POST", self.path, dict(self.headers), fields, files))

        def _answer(self, sent: Sent) -> None:
            say = state.answer(sent)
            data = say.body if say.body is not None else json.dumps(say.payload).encode()
            try:
                self.send_response(say.status)
                for name, value in {"Content-Type": "application/json", **say.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                for piece in [data[k : k + 1] for k in range(len(data))] if say.drip else [data]:
                    self.wfile.write(piece)
                    time.sleep(say.drip)
            except OSError:  # the client has had enough
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Clients that hang up are the point of some tests."""

    server = Server(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def _form(kind: str, body: bytes) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        f"Content-Type: {kind}\r\n\r\n".encode() + body
    )
    fields: dict[str, str] = {}
    files = []
    for part in message.iter_parts():  # type: ignore[attr-defined]
        name = part.get_param("name", header="content-disposition")
        data = part.get_payload(decode=True)
        if part.get_filename():
            files.append((name, data))
        else:
            fields[name] = data.decode()
    return fields, files


def picture(width: int = 24, height: int = 16, seed: int = 0) -> bytes:
    """A PNG."""
    return encode(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8), "png")


def openai(data: bytes | None = None, **first: Any) -> dict[str, Any]:
    """A response of the OpenAI family."""
    if data is not None:
        first["b64_json"] = base64.b64encode(data).decode()
    return {"created": 1, "data": [first], "usage": {"input_tokens": 100, "output_tokens": 4000}}


def gemini(data: bytes | None = None, words: str = "", **candidate: Any) -> dict[str, Any]:
    """A response of the Gemini family."""
    parts: list[dict[str, Any]] = [{"text": words}] if words else []
    if data is not None:
        parts.append({"inlineData": {"mimeType": "image/png", "data": base64.b64encode(data).decode()}})
    usage = {"promptTokenCount": 300, "candidatesTokenCount": 1290}
    return {"candidates": [{"content": {"parts": parts}, **candidate}], "usageMetadata": usage}
