"""One HTTP client for a server of chat completions: where it is, which key it gets, one request and what came of it."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from idtool.errors import MissingError
from idtool.models import http_client, openai_wire
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
        self._key_env, self._key = key_env, http_client.key_of(key_env)
        self._client = http_client.client(
            timeout,
            {"Authorization": f"Bearer {self._key}"} if self._key else {},
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
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
        since = time.monotonic()
        try:
            with self._client.stream(
                "POST", f"{self.base}/chat/completions", content=content, headers=headers
            ) as response:
                received = http_client.received(
                    response, most=MAX_RESPONSE, too_large="unavailable", since=since, timeout=self._timeout
                )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Failed("unavailable", http_client.words(error), again=True, setup=True) from error
        except httpx.TimeoutException as error:
            raise Failed("timeout", f"no response within {self._timeout:g} s", again=True) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise Failed("unavailable", http_client.words(error), again=True, setup=True) from error
        payload = http_client.parsed(received, self._key)
        if response.status_code != 200:
            raise self._failure(response, payload)
        if payload is None:
            raise http_client.no_json(response)
        return openai_wire.read(payload)

    def _failure(self, response: Any, payload: Any) -> Exception:
        """What an error response means."""
        status, model = response.status_code, self._model
        found = openai_wire.failure(status, payload, retry_after(response.headers.get("retry-after")))
        if status == 401 or (status == 403 and getattr(found, "reason", None) != "refused"):
            return http_client.wants_key(status, model, "option", self._key_env, self._key)
        if status == 402 or "insufficient_quota" in str(payload):
            return http_client.no_credit(status, model)
        if 300 <= status < 400:
            return http_client.elsewhere(status, model, "option")
        return found


def _base_url(given: str | None, model: str) -> str:
    """The address of the server. MissingError when none is named, UsageError for one that is none."""
    found = http_client.named_address(given, BASE_VARIABLES)
    if not found:
        raise MissingError(
            f"Model {model} needs the address of its server.",
            f"Set {BASE_VARIABLES[0]} to it, up to and with /v1, or give the model the option base_url.",
        )
    return http_client.checked_address(found, model, "option").removesuffix("/chat/completions")
