"""Names of files as table text: a local absolute path, or an fsspec URL.

A file name on Linux is bytes; most are UTF-8 and stand in tables as they are. One that is not cannot be stored as
text, so its whole path is written `bytes:` + path, where each stray byte and each `%` is `%XX`. Local paths begin
with `/` and URLs have `scheme://`, so the three never clash and the way back is exact.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_BYTES = "bytes:"
_STRAY = re.compile("[\udc80-\udcff%]")
_ESCAPE = re.compile("%([0-9A-F]{2})")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LOGIN = re.compile(r"://[^/?#\s@:]*:[^/?#\s]*@")


def is_url(text: str) -> bool:
    """Whether `text` is `scheme://…` (local drive letters and plain paths are not)."""
    return _URL.match(text) is not None


def package_hint(url: str) -> str:
    """What to do where fsspec lacks the package for a URL: the extra of this tool that brings it, if one does."""
    extra = {"s3": "s3", "s3a": "s3"}.get(url.partition("://")[0])
    return f"pip install 'idtool[{extra}]'." if extra else "Install the package that it names."


def holds_login(url: str) -> bool:
    """Whether a URL, or one that is chained to it, has a password before the @ of its host."""
    return _LOGIN.search(url) is not None


def without_login(url: str) -> str:
    """`s3://key:secret@bucket/x` as `s3://bucket/x`: for messages and records."""
    return _LOGIN.sub("://", url)


def is_text(text: str) -> bool:
    """Whether a path (as Python holds it, with surrogate escapes) is valid UTF-8."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def printable(text: str) -> str:
    """`text` with bytes that are no UTF-8 as `%XX`: for names and messages. Unchanged when it is valid text."""
    if is_text(text):
        return text
    return _STRAY.sub(lambda match: f"%{ord(match[0]) & 0xFF:02X}", text)


def to_uri(path: str | os.PathLike[str]) -> str:
    """The table text of a local path (made absolute, symbolic links kept) or of a URL."""
    text = os.fspath(path)
    if is_url(text):
        return text
    text = os.path.abspath(text)  # noqa: PTH100 - Path.absolute() leaves `..` in, and two names for one file
    return text if is_text(text) else _BYTES + printable(text)


def from_uri(uri: str) -> str:
    """The path or URL behind a table text; the inverse of `to_uri`."""
    if not uri.startswith(_BYTES):
        return uri
    # Latin letters outside the escapes must stay as they are, so only the escaped bytes are turned back.
    return _ESCAPE.sub(_unescape, uri.removeprefix(_BYTES))


def _unescape(match: re.Match[str]) -> str:
    byte = int(match[1], 16)
    return "%" if byte == 0x25 else chr(0xDC00 + byte)


def local(uri: str) -> Path | None:
    """The local path behind a table text, `file://` included; None for a remote URL."""
    text = from_uri(uri)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return None if is_url(text) else Path(text)
