"""A chat-completions server for tests: real HTTP on 127.0.0.1, scripted replies, everything it received kept."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass
class Reply:
    """One response."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    delay: float = 0.0
    """Seconds before anything is sent."""
    hang_up: str = ""
    """`before` any byte, or in the `middle` of the body."""
    trickle: float = 0.0
    """Seconds between the bytes of the body."""


def says(text: str | None, finish: str = "stop", **message: Any) -> Reply:
    """A good response with this text; `message`: further fields, such as `refusal`."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    return sends({"id": "1", "object": "chat.completion", "model": "tiny", "choices": [choice], "usage": usage})


def sends(payload: Any, status: int = 200, **headers: str) -> Reply:
    """A response with this JSON; `headers` with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(payload).encode(), {"Content-Type": "application/json", **named})


def fails(status: int, message: str = "no", **further: Any) -> Reply:
    """An error response as OpenAI writes it; `further`: `code`, `param`, `type`, and headers as a mapping."""
    headers = further.pop("headers", {})
    return sends({"error": {"message": message, **further}}, status, **headers)


@dataclass
class Request:
    """What the server got."""

    path: str
    headers: Mapping[str, str]
    raw: str
    at: float
    """Seconds, monotonic."""

    @property
    def body(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.raw)
        return parsed

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The parts of the user's turn."""
        content: list[dict[str, Any]] = self.body["messages"][-1]["content"]
        return content

    @property
    def prompt(self) -> str:
        return str(self.parts[-1]["text"])

    @property
    def images(self) -> list[npt.NDArray[np.uint8]]:
        """The pictures, decoded."""
        uris = [part["image_url"]["url"] for part in self.parts if part["type"] == "image_url"]
        files = [base64.b64decode(uri.partition(";base64,")[2], validate=True) for uri in uris]
        return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]


Script = Callable[[Request], Reply]


class ChatServer:
    """Answers the n-th request by the n-th reply, and those after by the last one; or by a function of the request."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._now = 0
        self._replies: list[Reply | Script] = [says("hello")]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._serve(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def script(self, *replies: Reply | Script) -> None:
        """What comes from now on; forgets earlier requests."""
        self._replies, self.requests = list(replies), []

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self._open.add(handler.connection)
        raw = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
        request = Request(handler.path, dict(handler.headers), raw, time.monotonic())
        with self._lock:
            reply = self._replies[min(len(self.requests), len(self._replies) - 1)]
            self.requests.append(request)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        reply = reply(request) if callable(reply) else reply
        try:
            time.sleep(reply.delay)
        finally:
            with self._lock:
                self._now -= 1
        with contextlib.suppress(OSError):
            self._send(handler, reply)

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.hang_up != "before":
            handler.send_response(reply.status)
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(reply.body)))
            handler.end_headers()
            if reply.trickle:
                for byte in reply.body:
                    handler.wfile.write(bytes([byte]))
                    time.sleep(reply.trickle)
            else:
                handler.wfile.write(reply.body[: len(reply.body) // 2] if reply.hang_up else reply.body)
        if reply.hang_up:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def running(self) -> Iterator[ChatServer]:
        """Serve in a thread until the block is left."""
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stop()
            thread.join()

    def stop(self) -> None:
        """Close the port and all connections: further requests are refused."""
        self._http.shutdown()
        self._http.server_close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
