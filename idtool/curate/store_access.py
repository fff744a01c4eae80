"""Opening a store to write a data set to, and what is said when it does not let us."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from idtool.errors import IdtoolError, MissingError, UsageError
from idtool.media.paths import holds_login, package_hint, without_login

_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|KEY|CREDENTIAL|CONNECTION_STRING|SAS", re.IGNORECASE)


def opened(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it. UsageError for one that names no place to write to, or a
    login; MissingError for one whose package is not here."""
    import fsspec

    if holds_login(url):
        raise UsageError(
            f"--output {without_login(url)} was given with a password in its URL.",
            "Give the login to the file system instead: in the environment, or in its own files.",
        )
    protocol = url.partition("://")[0]
    if "::" in protocol or "?" in url:
        raise UsageError(f"--output {url}: not the plain URL of a folder.", "As in --output s3://bucket/folder.")
    if protocol in ("http", "https"):
        raise UsageError(
            f"--output {url}: a web server takes no files.", "Give the URL of a store, as s3://… or gs://…."
        )
    if protocol == "hf":
        raise UsageError(f"--output {url}: the hub is not written to by this.", "Use --push hf:OWNER/NAME.")
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingError(f"Cannot write to {url}: {reason(error)}.", package_hint(url)) from error
    except ValueError as error:
        raise UsageError(f"Cannot write to {url}: {reason(error)}.", "Check the URL.") from error
    if not root.strip("/"):
        raise UsageError(f"--output {url} names no bucket or folder.", "As in --output s3://bucket/folder.")
    return fs, root.rstrip("/")


@contextmanager
def told(
    what: str, kind: type[IdtoolError] = MissingError, hint: str = "Check the URL, the network and your rights there."
) -> Iterator[None]:
    """What the file system raises, as one sentence that begins with `what`. (Every file system has errors of its own,
    and few of them are OSErrors.)"""
    try:
        yield
    except IdtoolError:
        raise
    except Exception as error:
        raise kind(f"{what}: {reason(error)}.", hint) from error


def reason(error: BaseException) -> str:
    """The first line of what an error says, without any secret that is in the environment."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].rstrip(".") if lines else type(error).__name__
    if isinstance(error, FileNotFoundError | PermissionError | NotImplementedError):
        text = f"{_WORDS[next(c for c in _WORDS if isinstance(error, c))]} ({text})"
    for name, value in os.environ.items():
        if len(value) > 7 and _SECRET.search(name):
            text = text.replace(value, "…")
    return text


_WORDS: dict[type[BaseException], str] = {
    FileNotFoundError: "it does not exist",
    PermissionError: "no right to do so",
    NotImplementedError: "this kind of store cannot do that",
}
