"""What the clients of HTTP servers share: the server's address, its key, connections, reading a response, and errors
of the set-up. What a response means is for each of them to say.

`whose` is the model or method that a message is about, `term` what its user calls a setting: option or setting.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from idtool.errors import MissingError, UsageError
from idtool.models.http_tries import Failed

if TYPE_CHECKING:
    import ssl

    import httpx


def named_address(given: str | None, variables: Sequence[str]) -> str:
    """The address that is given, else that of the first of these environment variables which is set; else ""."""
    return given or next((os.environ[name] for name in variables if os.environ.get(name)), "")


def checked_address(address: str, whose: str, term: str) -> str:
    """The address without a slash at its end. UsageError for one that is no address or holds a key."""
    address = address.strip()
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        # Not quoted: it may hold a password.
        raise UsageError(
            f"The base_url of {whose} is no plain address of a server.",
            f"It is http:// or https://, host, path; keys belong into the environment ({term} key_env).",
        )
    return address.rstrip("/")


def key_of(variable: str) -> str | None:
    """The key in an environment variable; None when there is none. MissingError for one that no header can hold."""
    key = os.environ.get(variable, "").strip()
    if key and (not key.isascii() or not key.isprintable() or " " in key):
        raise MissingError(f"The environment variable {variable} holds no key.", "It is one word of ASCII characters.")
    return key or None


def client(timeout: float, headers: Mapping[str, str], **options: Any) -> httpx.Client:
    """A client that sends these headers with every request and follows no redirect. `timeout`: seconds for each read
    or write; `options`: further ones of `httpx.Client`."""
    import httpx

    timeouts = httpx.Timeout(timeout, connect=min(timeout, 30.0))
    return httpx.Client(timeout=timeouts, headers=headers, follow_redirects=False, verify=_certificates(), **options)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """The certificates that servers are checked by; reading them takes longer than all the rest."""
    import httpx

    return httpx.create_ssl_context()


def received(response: httpx.Response, *, most: int, too_large: str, since: float, timeout: float) -> bytes:
    """The content of a streamed response. `Failed` when it has more than `most` bytes, with reason `too_large`, or
    when it is not there `timeout` seconds after the monotonic time `since`."""
    content = bytearray()
    for piece in response.iter_bytes():
        content += piece
        if len(content) > most:
            raise Failed(too_large, f"a response of more than {most >> 20} MB")
        # A server that sends a byte now and then would never run into the time-out of a read.
        if time.monotonic() > since + timeout:
            raise Failed("timeout", f"no whole response within {timeout:g} s", again=True)
    return bytes(content)


def parsed(content: bytes, key: str | None) -> Any:
    """JSON without the key, should the server quote it; None when it is no JSON."""
    text = content.decode("utf-8", "replace")
    try:
        return json.loads(text.replace(key, "***") if key else text)
    except (ValueError, RecursionError):
        return None


def words(error: Exception) -> str:
    """What an error says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def no_json(response: httpx.Response) -> Failed:
    """For a response of status 200 that `parsed` makes nothing of."""
    kind = response.headers.get("content-type", "no content type")
    return Failed("unavailable", f"the response is no JSON ({kind})", again=True, setup=True)


def wants_key(status: int, whose: str, term: str, key_env: str, key: str | None) -> MissingError:
    """For a status about the key. Without the server's words: they may quote it."""
    return MissingError(
        f"The server of {whose} wants a key (HTTP {status}): "
        f"the one in {key_env} {'is not accepted' if key else 'is not set'}.",
        f"Set {key_env}, or name another variable with {term} key_env.",
    )


def no_credit(status: int, whose: str) -> MissingError:
    """For a status about payment."""
    return MissingError(f"The account at the server of {whose} has no credit left (HTTP {status}).")


def elsewhere(status: int, whose: str, term: str) -> MissingError:
    """For a redirect, which is not followed."""
    return MissingError(
        f"The server of {whose} sends requests elsewhere (HTTP {status}).",
        f"Give {term} base_url the address that it means; the key is not sent on.",
    )
