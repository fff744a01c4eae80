"""Where weights of each kind of address come from: the cache of the library that knows them, and the network.

For every kind there is a look into the cache, which fetches nothing and gives None for what is not there, and a fetch
that fills that same cache, so that other programs on the machine share it. Fetched files are renamed into place when
they are complete; nothing of them is executed. `idtool.models.sources` decides what is asked when; the hub's part is
in `idtool.models.hub`.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from idtool.models import hub, weights
from idtool.models.addresses import Address
from idtool.models.index import open_url
from idtool.models.index_settings import settings

GITHUB_RAW = "https://raw.githubusercontent.com"
GITHUB = "https://github.com"
RELEASE = "releases/download/"
GITHUB_LARGE = "https://media.githubusercontent.com/media"
"""Where GitHub keeps the content of Git LFS files; at the other address there is a few lines of text in place of it."""
INSIGHTFACE_PACKS = "https://github.com/deepinsight/insightface/releases/download/model-zoo"
_POINTER = b"version https://git-lfs.github.com/spec/"


def insightface_home() -> Path:
    """Where InsightFace keeps its packs."""
    return Path(os.environ.get("INSIGHTFACE_HOME") or Path.home() / ".insightface")


def insightface_cached(address: Address) -> Path | None:
    """The folder of a pack's ONNX files."""
    return pack_folder(insightface_home() / "models" / address.name)


def insightface_fetch(address: Address) -> None:
    """A pack of InsightFace's releases; only the ONNX files of its archive are kept."""
    target = insightface_home() / "models" / address.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(target.parent) as folder:
        archive = folder / "pack.zip"
        _download(f"{INSIGHTFACE_PACKS}/{address.name}.zip", archive)
        found = []
        with zipfile.ZipFile(archive) as pack:
            for info in pack.infolist():
                name = Path(info.filename).name
                if name.endswith(".onnx"):
                    with pack.open(info) as source, (folder / name).open("wb") as out:
                        shutil.copyfileobj(source, out, 1 << 20)
                    found.append(folder / name)
        if not found:
            raise OSError("the archive holds no ONNX file")
        target.mkdir(exist_ok=True)
        for file in found:
            file.replace(target / file.name)


def pack_folder(folder: Path) -> Path | None:
    """The folder with the ONNX files: some archives of packs hold a folder of their own name."""
    for candidate in (folder, folder / folder.name):
        if any(candidate.glob("*.onnx")):
            return candidate
    return None


def github_cached(address: Address) -> Path | None:
    """The file in this tool's own cache."""
    file = _github_file(address)
    return file if file.is_file() else None


def github_fetch(address: Address) -> None:
    """One file of a repository at a revision, the default branch's newest where none is named; at a revision
    `releases/download/<tag>`, a file of that release."""
    target = _github_file(address)
    target.parent.mkdir(parents=True, exist_ok=True)
    place = quote(f"{address.name}/{address.revision or 'HEAD'}/{address.file}")
    with _scratch(target.parent) as folder:
        file = folder / "file"
        released = (address.revision or "").startswith(RELEASE)
        _download(f"{GITHUB if released else GITHUB_RAW}/{place}", file)
        with file.open("rb") as start:
            pointer = start.read(len(_POINTER)) == _POINTER
        if pointer:
            _download(f"{GITHUB_LARGE}/{place}", file)
        file.replace(target)


def _github_file(address: Address) -> Path:
    return weights.cache_dir() / "github" / address.name / (address.revision or "HEAD") / str(address.file)


def _download(url: str, target: Path) -> None:
    """Write what is at an address to a file. OSError when it cannot be had, or the connection ends too early."""
    with open_url(url, settings()) as response, target.open("wb") as out:
        promised = response.headers.get("Content-Length")
        shutil.copyfileobj(response, out, 1 << 20)
        # A closed connection looks like the end of the file.
        if promised is not None and out.tell() != int(promised):
            raise ConnectionError(f"the connection was closed after {out.tell()} of {promised} bytes")


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder on the same disk as what is made in it, gone afterwards whatever happens."""
    # Not `mkdtemp`, whose folders only their owner may read: a cache can be shared.
    folder = parent / f".part-{os.getpid()}-{os.urandom(6).hex()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


CACHED: dict[str, Callable[[Address], Path | None]] = {
    "hf": hub.cached,
    "open_clip": hub.open_clip_cached,
    "insightface": insightface_cached,
    "github": github_cached,
}
FETCH: dict[str, Callable[[Address], None]] = {
    "hf": hub.fetch,
    "open_clip": hub.open_clip_fetch,
    "insightface": insightface_fetch,
    "github": github_fetch,
}
