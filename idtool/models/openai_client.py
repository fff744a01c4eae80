"""One HTTP client for a server of chat completions: where it is, which key it gets, one request and what came of it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from typing import Any
from urllib.parse import urlsplit

from idtool.errors import MissingError, UsageError
from idtool.models import openai_wire
from idtool.models.ask import Answer
from idtool.models.http_tries import Failed, retry_after

BASE_VARIABLES = ("IDTOOL_API_BASE", "OPENAI_BASE_URL")
"""Environment variables with the address of the server, in this order, when option `base_url` is not given."""
MAX_RESPONSE = 8 << 20
"""Bytes of a response above which it is no answer to a question."""


class ChatClient:
    """Sends questions. Safe to call from several threads. The key is in the Authorization header and nowhere else."""

    def __init__(self, model: str, base_url: str | None, key_env: str, timeout: float, connections: int) -> None:
        """`base_url` None: from `BASE_VARIABLES`. MissingError when there is no address, or a key that is none;
        UsageError for an address that is none."""
        import httpx

        self.base = _base_url(base_url, model)
        self._model, self._timeout = model, timeout
        self._key_env, self._key = key_env, _key(key_env)
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 30.0)),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            follow_redirects=False,
            verify=_certificates(),
        )

    @property
    def server_hash(self) -> str:
        """The server's address as a hash, for fingerprints: addresses may be private."""
        return hashlib.sha256(self.base.encode()).hexdigest()[:16]

    def send(self, content: bytes) -> Answer:
        """One try of a request with this body. `Failed` or `SettingsRefused` when it brings no answer; MissingError
        when key, credit or address are at fault."""
        import httpx

        headers = {"Content-Type": "application/json"}
        until = time.monotonic() + self._timeout
        try:
            with self._client.stream(
                "POST", f"{self.base}/chat/completions", content=content, headers=headers
            ) as response:
                received = bytearray()
                for piece in response.iter_bytes():
                    received += piece
                    if len(received) > MAX_RESPONSE:
                        raise Failed("unavailable", f"a response of more than {MAX_RESPONSE >> 20} MB")
                    # A server that sends a byte now and then would never run into the time-out of a read.
                    if time.monotonic() > until:
                        raise Failed("timeout", f"no whole response within {self._timeout:g} s", again=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Failed("unavailable", _words(error), again=True, setup=True) from error
        except httpx.TimeoutException as error:
            raise Failed("timeout", f"no response within {self._timeout:g} s", again=True) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise Failed("unavailable", _words(error), again=True, setup=True) from error
        try:
            payload = json.loads(self._clean(received.decode("utf-8", "replace")))
        except (ValueError, RecursionError):
            payload = None
        if response.status_code != 200:
            raise self._failure(response, payload)
        if payload is None:
            kind = response.headers.get("content-type", "no content type")
            raise Failed("unavailable", f"the response is no JSON ({kind})", again=True, setup=True)
        return openai_wire.read(payload)

    def _failure(self, response: Any, payload: Any) -> Exception:
        """What an error response means. What is about the key is told without the server's words: they may quote it."""
        status, model = response.status_code, self._model
        found = openai_wire.failure(status, payload, retry_after(response.headers.get("retry-after")))
        if status == 401 or (status == 403 and getattr(found, "reason", None) != "refused"):
            state = "is not accepted" if self._key else "is not set"
            return MissingError(
                f"The server of {model} wants a key (HTTP {status}): the one in {self._key_env} {state}.",
                f"Set {self._key_env}, or name another variable with option key_env.",
            )
        if status == 402 or "insufficient_quota" in str(payload):
            return MissingError(f"The account at the server of {model} has no credit left (HTTP {status}).")
        if 300 <= status < 400:
            return MissingError(
                f"The server of {model} sends requests elsewhere (HTTP {status}).",
                "Give option base_url the address that it means; the key is not sent on.",
            )
        return found

    def _clean(self, text: str) -> str:
        """A server's words without the key, should it quote it."""
        return text.replace(self._key, "***") if self._key else text


@functools.cache
def _certificates() -> Any:
    """The certificates that servers are checked by; reading them takes longer than all the rest."""
    import httpx

    return httpx.create_ssl_context()


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _base_url(given: str | None, model: str) -> str:
    """The address of the server, without a slash at its end. MissingError when none is named, UsageError for one that
    is no address or holds a key."""
    found = given or next((os.environ[name] for name in BASE_VARIABLES if os.environ.get(name)), None)
    if not found:
        raise MissingError(
            f"Model {model} needs the address of its server.",
            f"Set {BASE_VARIABLES[0]} to it, up to and with /v1, or give the model the option base_url.",
        )
    parts = urlsplit(found.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        # Not quoted: it may hold a password.
        raise UsageError(
            f"The base_url of {model} is no plain address of a server.",
            "It is http:// or https://, host, path; keys belong into the environment (option key_env).",
        )
    return found.strip().rstrip("/").removesuffix("/chat/completions")


def _key(variable: str) -> str | None:
    """The key in an environment variable; None when there is none. MissingError for one that no header can hold."""
    key = os.environ.get(variable, "").strip()
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise MissingError(f"The environment variable {variable} holds no key.", "It is one word of ASCII characters.")
    return key
