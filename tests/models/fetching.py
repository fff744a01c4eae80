"""For tests of fetching: places of the test's own, no network, and servers on this machine."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from idtool.models import origins

WEIGHTS = b"weights of a network" * 50
Answer = tuple[int, dict[str, str], bytes]


def isolate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches and mirror below `tmp_path`; everything that would be fetched is at a port that nobody listens on."""
    (tmp_path / "mirror").mkdir()
    for name, value in {"IDTOOL_CACHE": "cache", "IDTOOL_MODELS": "mirror", "INSIGHTFACE_HOME": "packs"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("IDTOOL_OFFLINE", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PIP_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    nowhere = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setattr(origins, "GITHUB_RAW", nowhere)
    monkeypatch.setattr(origins, "GITHUB_LARGE", nowhere)
    monkeypatch.setattr(origins, "INSIGHTFACE_PACKS", nowhere)


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def put(file: Path, content: bytes = WEIGHTS) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@contextmanager
def serving(answer: Callable[[str, str], Answer]) -> Iterator[str]:
    """The address of a server that answers (method, path) with (status, headers, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self.command, self.path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
