"""Which package indexes this machine is set up to use: what pip and uv are configured with, read without them."""

from __future__ import annotations

import configparser
import os
import re
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_INDEX = "https://pypi.org/simple"


@dataclass
class IndexSettings:
    """Where packages come from, first match first; URLs may carry credentials and are never printed whole."""

    indexes: list[str] = field(default_factory=list)
    find_links: list[str] = field(default_factory=list)
    certificates: str | None = None
    proxy: str | None = None
    """As pip's `--proxy`; the usual environment variables apply when there is none."""
    timeout: float = 60.0
    """Seconds of silence after which a connection is given up."""

    def pages(self, package: str) -> list[str]:
        """Every page that may link to files of `package`."""
        normal = re.sub(r"[-_.]+", "-", package).lower()
        return [f"{index.rstrip('/')}/{normal}/" for index in self.indexes] + self.find_links


def settings() -> IndexSettings:
    """What pip and uv are configured with: environment first, then their files, then the public index."""
    env, pip, uv = os.environ, _pip_options(), _uv_options()
    tables = [table for table in uv.get("index", []) if isinstance(table, dict) and "url" in table]
    main = (
        env.get("PIP_INDEX_URL")
        or _address(env.get("UV_DEFAULT_INDEX", ""))
        or env.get("UV_INDEX_URL")
        or pip.get("index-url")
        or next((table["url"] for table in tables if table.get("default")), None)
        or uv.get("index-url")
        or DEFAULT_INDEX
    )
    extra = env.get("PIP_EXTRA_INDEX_URL", pip.get("extra-index-url", "")).split()
    extra += [_address(item) for item in env.get("UV_INDEX", "").split()]
    extra += env.get("UV_EXTRA_INDEX_URL", "").split() + list(uv.get("extra-index-url", []))
    extra += [table["url"] for table in tables if not table.get("default")]
    links = env.get("PIP_FIND_LINKS", pip.get("find-links", "")).split()
    links += env.get("UV_FIND_LINKS", "").replace(",", " ").split()
    if env.get("PIP_NO_INDEX", pip.get("no-index", "")).lower() in ("1", "true", "yes", "on"):
        main, extra = "", []
    certificates = env.get("PIP_CERT") or pip.get("cert") or env.get("SSL_CERT_FILE") or env.get("REQUESTS_CA_BUNDLE")
    return IndexSettings(
        indexes=list(dict.fromkeys(url for url in (main, *extra) if url)),
        find_links=list(dict.fromkeys(links)),
        certificates=certificates,
        proxy=env.get("PIP_PROXY") or pip.get("proxy"),
        timeout=_seconds(env.get("PIP_DEFAULT_TIMEOUT") or pip.get("timeout")),
    )


def _address(item: str) -> str:
    """The URL of one of uv's indexes, which may be named: `name=url`. A URL's own `=` comes after its scheme."""
    return re.sub(r"^[\w.-]+=", "", item)


def _seconds(text: str | None) -> float:
    try:
        return max(1.0, float(text or 60))
    except ValueError:
        return 60.0


def _pip_options() -> dict[str, str]:
    """Options of pip's configuration files that concern the index; later files override earlier ones."""
    named, home = os.environ.get("PIP_CONFIG_FILE"), Path.home()
    if named == os.devnull:
        return {}
    if sys.platform == "win32":
        shared = [Path(os.environ.get("PROGRAMDATA", "C:/ProgramData")) / "pip" / "pip.ini"]
        own = [home / "pip" / "pip.ini", Path(os.environ.get("APPDATA", home)) / "pip" / "pip.ini"]
    else:
        system = ("etc/xdg/pip", "etc", "Library/Application Support/pip")
        shared = [Path(os.sep, folder, "pip.conf") for folder in system]
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        personal = (home / ".pip", home / "Library/Application Support/pip", config / "pip")
        own = [folder / "pip.conf" for folder in personal]
    site = Path(sys.prefix) / ("pip.ini" if sys.platform == "win32" else "pip.conf")
    merged: dict[str, str] = {}
    for file in [*shared, *own, site, *([Path(named)] if named else [])]:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, "utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        for section in ("global", "install", "download"):
            if parser.has_section(section):
                merged.update(parser.items(section))
    return merged


def _uv_options() -> dict[str, Any]:
    """Top-level options of uv's own configuration file, the user's before the system's."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    if sys.platform == "win32":
        home = Path(os.environ.get("APPDATA", home))
    for file in (os.environ.get("UV_CONFIG_FILE"), home / "uv" / "uv.toml", Path(os.sep, "etc/uv/uv.toml")):
        if file and Path(file).is_file():
            try:
                return tomllib.loads(Path(file).read_text("utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError):
                continue
    return {}
