"""Weights that do not come from the package index: found on this machine, fetched on request, told by their hash.

Where an address is looked for, in this order:

1. the mirror `IDTOOL_MODELS` (`--models-dir`): `<mirror>/<owner>/<repo>` for `hf:` and `github:`,
   `<mirror>/insightface/<pack>`, `<mirror>/open_clip/<architecture>/<tag>`;
2. the cache of the library that fetches it: the hub's cache, `~/.insightface/models`, this tool's own for `github:`;
3. the network, when it is asked for (`obtain`) and neither `IDTOOL_OFFLINE=1` nor `HF_HUB_OFFLINE=1` forbids it.

No file that is fetched is ever executed, and no pickle is loaded (`idtool.models.torch_runtime`).
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import addresses, weights
from idtool.models.addresses import Address

Announce = Callable[[str], None]
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".tflite", ".task", ".npz", ".msgpack")
_UNWANTED = ("*.msgpack", "*.h5", "*.ot", "*.tflite", "*.onnx", "onnx/*", "*.gguf", "*.md", "*.png", "*.jpg", "*.mp4")
"""Files of hub repositories that no wrapper reads: other frameworks' copies of the weights, pictures of the card."""
GITHUB_RAW = "https://raw.githubusercontent.com"
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Weights:
    """The weights of one binding, on this machine, as wrappers get them."""

    model: str
    """The address, as in the profile."""
    path: Path
    """A file, or the folder that `from_pretrained` takes."""
    revision: str | None = None
    licence: str = "not stated"

    def sha256(self) -> str:
        """Hash over all weight files; computed once, then known by size and time of change."""
        return digest(self.path)

    def facts(self) -> dict[str, Any]:
        """Model, revision and hash, for fingerprints."""
        return {"model": self.model, "revision": self.revision, "sha256": self.sha256()}


def find(address: Address) -> Path | None:
    """Where the weights are on this machine, or None. Fetches nothing; MissingError when they are damaged."""
    found = _find(address)
    if found is not None:
        if address.file and address.kind != "github":
            found = found / address.file if found.is_dir() else found
            found = found if found.exists() else None
        if found is not None and address.sha256 and digest(found) != address.sha256:
            raise MissingError(
                f"{found} is not the pinned file of {address} (sha256 {address.sha256[:16]}… is expected).",
                "Replace it, or correct `sha256` in pipelines.yaml.",
            )
    return found


def obtain(address: Address, *, announce: Announce | None = None) -> Path:
    """The weights, fetched when they are not here. MissingError when they cannot be had, with what to do."""
    found = find(address)
    if found is not None:
        return found
    if address.kind == "local":
        raise MissingError(f"{address.name} does not exist.", "Correct the path behind `local:` in pipelines.yaml.")
    if weights.is_offline():
        raise _absent(address, "IDTOOL_OFFLINE=1 forbids fetching it")
    if announce:
        announce(f"Fetching {address}")
    try:
        _FETCH[address.kind](address)
    except MissingError:
        raise
    # Libraries that fetch raise whatever their HTTP client does; all of it means that the model cannot be had.
    except Exception as error:
        raise _absent(address, " ".join(str(error).split())[:300] or type(error).__name__) from error
    found = find(address)
    if found is None:
        raise _absent(address, "what was fetched does not hold it")
    return found


def bound(binding: Binding, *, announce: Announce | None = None) -> Weights:
    """The weights of a binding that is not of the catalogue. For `api:` models the path means nothing."""
    address = addresses.parse(
        binding.model, revision=binding.revision, file=binding.options.get("file"), sha256=binding.sha256
    )
    path = Path() if address.kind == "api" else obtain(address, announce=announce)
    return Weights(binding.model, path, binding.revision, binding.licence)


def other(address: str, *, announce: Announce | None = None) -> Weights:
    """The weights at an address that an option of a wrapper names, such as a backbone."""
    return Weights(address, obtain(addresses.parse(address), announce=announce))


def fetch(bindings: Iterable[Binding], *, announce: Announce | None = None) -> None:
    """Get everything that some bindings need onto this machine. MissingError for the first that cannot be had."""
    for binding in bindings:
        for address in addresses.of_binding(binding):
            if address.kind != "api":
                obtain(address, announce=announce)


def size(path: Path) -> int:
    """Bytes of the weight files at `path`."""
    return sum(file.stat().st_size for file in _weight_files(path))


def digest(path: Path) -> str:
    """SHA-256 of a weight file; of a folder, over the names and hashes of its weight files."""
    files = list(_weight_files(path))
    if path.is_file():
        return _file_hash(path)
    lines = [f"{file.relative_to(path).as_posix()} {_file_hash(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _weight_files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (file for file in sorted(path.rglob("*")) if file.suffix in WEIGHT_SUFFIXES and file.is_file())


def _file_hash(file: Path) -> str:
    # The hub's cache names large files by their hash.
    real = file.resolve()
    if real.parent.name == "blobs" and _HASH.fullmatch(real.name):
        return real.name
    return weights.file_hash(file)


def _find(address: Address) -> Path | None:
    root = weights.mirror()
    if address.kind == "local":
        path = Path(address.name).expanduser()
        return path if path.exists() else None
    if address.kind == "api":
        return Path()
    if root is not None and (there := _in_mirror(root, address)) is not None:
        return there
    return _CACHED[address.kind](address)


def _in_mirror(root: Path, address: Address) -> Path | None:
    folder = root / address.name if address.kind in ("hf", "github") else root / address.kind / address.name
    if address.kind == "github" and address.file:
        file = folder / address.file
        return file if file.is_file() else None
    if address.kind == "insightface":
        return _flattened(folder)
    return folder if folder.is_dir() else None


def _flattened(folder: Path) -> Path | None:
    """The folder with the ONNX files: some archives of packs hold a folder of their own name."""
    for candidate in (folder, folder / folder.name):
        if any(candidate.glob("*.onnx")):
            return candidate
    return None


def _hub_cached(address: Address) -> Path | None:
    hub = _hub()
    if hub is None:
        return None
    if address.file:
        path = hub.try_to_load_from_cache(address.name, address.file, revision=address.revision)
        # `find` adds the file's name to a folder; a file stays as it is.
        return Path(path) if isinstance(path, str) else None
    try:
        folder = hub.snapshot_download(address.name, revision=address.revision, local_files_only=True)
    except Exception:
        return None
    return Path(folder) if any(_weight_files(Path(folder))) else None


def _hub_fetch(address: Address) -> None:
    hub = _hub()
    if hub is None:
        raise _needs_extra(address)
    if address.file:
        hub.hf_hub_download(address.name, address.file, revision=address.revision)
        return
    names = hub.HfApi().list_repo_files(address.name, revision=address.revision)
    ignored = list(_UNWANTED)
    if any(name.endswith(".safetensors") for name in names):
        ignored += ["*.bin", "*.pt", "*.pth", "*.ckpt"]
    hub.snapshot_download(address.name, revision=address.revision, ignore_patterns=ignored)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        return None
    return huggingface_hub


def _open_clip_hub(address: Address) -> Address | None:
    """Where on the hub open_clip keeps an architecture's tag."""
    try:
        from open_clip.pretrained import get_pretrained_cfg
    except ImportError as error:
        raise _needs_extra(address) from error
    architecture, _, tag = address.name.rpartition("/")
    settings = get_pretrained_cfg(architecture, tag)
    if not settings:
        raise UsageError(
            f"open_clip has no weights {tag!r} of {architecture!r}.", "`open_clip.list_pretrained()` lists them."
        )
    repo, _, file = str(settings.get("hf_hub", "")).partition("/")
    owner, repo = repo, file.split("/")[0] if "/" in file else file
    return Address("hf", f"{owner}/{repo}") if owner and repo else None


def _open_clip_cached(address: Address) -> Path | None:
    there = _open_clip_hub(address)
    return _hub_cached(there) if there else None


def _open_clip_fetch(address: Address) -> None:
    there = _open_clip_hub(address)
    if there is None:
        raise _absent(address, "open_clip states no hub repository for it")
    _hub_fetch(there)


def insightface_home() -> Path:
    """Where InsightFace keeps its packs."""
    return Path(os.environ.get("INSIGHTFACE_HOME") or Path.home() / ".insightface")


def _insightface_cached(address: Address) -> Path | None:
    return _flattened(insightface_home() / "models" / address.name)


def _insightface_fetch(address: Address) -> None:
    try:
        from insightface.utils.storage import ensure_available
    except ImportError as error:
        raise _needs_extra(address) from error
    ensure_available("models", address.name, root=str(insightface_home()))


def _github_file(address: Address) -> Path:
    owner, repo = address.name.split("/")
    return weights.cache_dir() / "github" / owner / repo / (address.revision or "HEAD") / str(address.file)


def _github_cached(address: Address) -> Path | None:
    file = _github_file(address)
    return file if file.is_file() else None


def _github_fetch(address: Address) -> None:
    target = _github_file(address)
    target.parent.mkdir(parents=True, exist_ok=True)
    url = f"{GITHUB_RAW}/{address.name}/{address.revision or 'HEAD'}/{address.file}"
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 - https, see GITHUB_RAW
                while chunk := response.read(1 << 20):
                    temporary.write(chunk)
            temporary.close()
            Path(temporary.name).replace(target)
        except (OSError, urllib.error.URLError):
            Path(temporary.name).unlink(missing_ok=True)
            raise


_CACHED: dict[str, Callable[[Address], Path | None]] = {
    "hf": _hub_cached,
    "open_clip": _open_clip_cached,
    "insightface": _insightface_cached,
    "github": _github_cached,
}
_FETCH: dict[str, Callable[[Address], None]] = {
    "hf": _hub_fetch,
    "open_clip": _open_clip_fetch,
    "insightface": _insightface_fetch,
    "github": _github_fetch,
}


def _absent(address: Address, why: str) -> MissingError:
    return MissingError(
        f"Model {address} is not on this machine and cannot be fetched: {why}.",
        "Run `idtool models pull` where there is a network, or put it into the folder of --models-dir.",
    )


@functools.cache
def extra_hint() -> str:
    """How to install what the hub's models need."""
    return "Install the extra: pip install 'idtool[models]' (in a clone: uv sync --extra models)."


def _needs_extra(address: Address) -> MissingError:
    return MissingError(f"Model {address} needs packages that are not installed.", extra_hint())
