"""HTTP for image servers: one request and what came of it, images by URL, a rate limit.

Keys go into the one header of requests to the server and nowhere else; what a server says is cleared of them before
anybody sees it.
"""

from __future__ import annotations

import ipaddress
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from idtool.errors import MissingError
from idtool.models import http_client
from idtool.models.http_tries import Failed, may_pass, retry_after

MAX_REDIRECTS = 3
"""Of an image's URL; the server itself may not redirect."""
_REFUSED = re.compile(r"content_?filter|content[_ ]policy|moderation|flagged|safety|prohibited|sensitive", re.I)
_NO_CREDIT = re.compile(r"insufficient_quota|billing_hard_limit|credit balance", re.I)
_BAD_KEY = re.compile(r"api[_ ]key[_ ](not valid|invalid)|invalid[_ ]api[_ ]key", re.I)


@dataclass(frozen=True)
class Call:
    """A POST below the server's address: a JSON body, or a form with files."""

    path: str
    body: Mapping[str, Any] | None = None
    form: Mapping[str, str] = field(default_factory=dict)
    files: tuple[tuple[str, tuple[str, bytes, str]], ...] = ()
    """Field, then name, bytes and type of each file."""


class Rate:
    """So many requests a minute, spread evenly over all threads of this process."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Until it is this request's turn, or until `stop` is set."""
        if not self._gap:
            return
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._gap
        stop.wait(max(0.0, turn - time.monotonic()))


class ImageClient:
    """Talks to one server. Safe to call from several threads."""

    def __init__(
        self, what: str, base: str, key: str | None, *, key_env: str, header: tuple[str, str], timeout: float, most: int
    ) -> None:
        """`what`: the method, for messages. `header`: name of the key's header and what stands before the key.
        `most`: bytes of a response, or of an image behind a URL, at most."""
        self.base, self._what, self._key, self._key_env = base, what, key, key_env
        self._timeout, self._most = timeout, most
        self._client = http_client.client(timeout, {header[0]: f"{header[1]}{key}"} if key else {})
        # Images may lie with somebody else, who is not to see the key.
        self._plain = http_client.client(timeout, {})

    def close(self) -> None:
        self._client.close()
        self._plain.close()

    def send(self, call: Call, idempotency: str) -> Any:
        """One try; the parsed JSON. `Failed` when it brings none; MissingError when key, credit, model or address are
        at fault, so that no other request would fare better."""
        headers = {"Idempotency-Key": idempotency}
        body: dict[str, Any] = {"data": dict(call.form), "files": list(call.files)}
        if call.body is not None:
            headers["Content-Type"] = "application/json"
            body = {"content": json.dumps(call.body).encode()}
        with self._failures("the server"):
            request = self._client.build_request("POST", f"{self.base}/{call.path}", headers=headers, **body)
            response = self._client.send(request, stream=True)
            received = self._received(response)
        payload = http_client.parsed(received, self._key)
        if response.status_code != 200:
            raise self._failure(response, payload)
        if payload is None:
            raise http_client.no_json(response)
        return payload

    def fetch(self, url: str) -> bytes:
        """An image behind a URL that the server gave. `Failed`, also for addresses that are not to be fetched."""
        for _ in range(MAX_REDIRECTS + 1):
            self._check(url)
            with self._failures("the image's server"):
                response = self._plain.send(self._plain.build_request("GET", url), stream=True)
                data = self._received(response)
            if response.is_redirect:
                url = urljoin(url, response.headers["location"])
                continue
            if response.status_code != 200:
                again = may_pass(response.status_code)
                raise Failed("unavailable", f"the image's server says HTTP {response.status_code}", again=again)
            return data
        raise Failed("bad_url", "the image's address redirects again and again")

    def _check(self, url: str) -> None:
        """Only http(s), and no address of the local network that the server itself does not have."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Failed("bad_url", f"the image's address is of scheme {parts.scheme[:20]!r}; only http(s) is fetched")
        if parts.hostname != urlsplit(self.base).hostname and _is_local(parts.hostname):
            raise Failed("bad_url", "the image's address is one of the local network")

    def _received(self, response: Any) -> bytes:
        with closing(response):
            return http_client.received(
                response, most=self._most, too_large="too_large", since=time.monotonic(), timeout=self._timeout
            )

    @contextmanager
    def _failures(self, who: str) -> Iterator[None]:
        import httpx

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Failed("unavailable", f"{who}: {http_client.words(error)}", again=True, setup=True) from error
        except httpx.TimeoutException as error:
            raise Failed("timeout", f"{who} gives no response within {self._timeout:g} s", again=True) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Failed("unavailable", f"{who}: {http_client.words(error)}", again=True, setup=True) from error

    def _failure(self, response: Any, payload: Any) -> Exception:
        """What an error response means."""
        status = response.status_code
        message, marks = told(payload)
        said = f"HTTP {status}" + (f": {message}" if message else "")
        if 300 <= status < 400:
            return http_client.elsewhere(status, self._what, "setting")
        if status < 500 and status != 429 and is_refusal(marks):
            return Failed("refused", said)
        if status in (401, 403) or (status == 400 and _BAD_KEY.search(marks)):
            return http_client.wants_key(status, self._what, "setting", self._key_env, self._key)
        if status == 402 or _NO_CREDIT.search(marks):
            return http_client.no_credit(status, self._what)
        if status == 404:
            return MissingError(
                f"The server of {self._what} has no such model or path ({said}).",
                "Check base_url and the model's name.",
            )
        if may_pass(status):
            wait = retry_after(response.headers.get("retry-after"))
            return Failed("unavailable", said, again=True, wait=_delay(payload) if wait is None else wait)
        return Failed("bad_input", said)


def told(payload: Any) -> tuple[str, str]:
    """What an error response says: its message, and that with codes and types, to look for marks in."""
    error = payload.get("error", payload) if isinstance(payload, Mapping) else payload
    if not isinstance(error, Mapping):
        error = {"message": error}
    message = " ".join(str(error.get("message") or error.get("detail") or "").split())[:300]
    return message, " ".join(str(error.get(key) or "") for key in ("code", "type", "status")) + f" {message}"


def is_refusal(marks: str) -> bool:
    """Whether the second of what `told` gives speaks of the content policy."""
    return _REFUSED.search(marks) is not None


def _delay(payload: Any) -> float | None:
    """Seconds of a `retryDelay` such as `"12s"`, which Gemini gives in place of a header."""
    error = payload.get("error") if isinstance(payload, Mapping) else None
    details = error.get("details") if isinstance(error, Mapping) else None
    for detail in details if isinstance(details, list) else ():
        said = str(detail.get("retryDelay")) if isinstance(detail, Mapping) else ""
        if found := re.fullmatch(r"(\d{1,6}(\.\d+)?)s", said):
            return float(found[1])
    return None


def _is_local(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".internal"))


def base_url(given: str | None, variable: str, what: str) -> str:
    """The address of the server. MissingError when none is named, UsageError for one that is none."""
    found = http_client.named_address(given, (variable,))
    if not found.strip():
        raise MissingError(
            f"Method {what!r} needs the address of its server.", f"Give setting base_url, or set {variable}."
        )
    return http_client.checked_address(found, f"method {what!r}", "setting")
