"""Weights that do not come from the package index: found on this machine, fetched on request, told by their hash.

Where an address is looked for, in this order:

1. the mirror `IDTOOL_MODELS` (`--models-dir`): `<mirror>/<owner>/<repo>` for `hf:` and `github:`,
   `<mirror>/insightface/<pack>`, `<mirror>/open_clip/<architecture>/<tag>`;
2. the cache of the library that fetches it: the hub's cache, `~/.insightface/models`, this tool's own for `github:`;
3. the network, when it is asked for (`obtain`) and neither `IDTOOL_OFFLINE=1` nor `HF_HUB_OFFLINE=1` forbids it.

No file that is fetched is ever executed, and no pickle is loaded (`idtool.models.torch_runtime`).
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idtool.engine.step import Binding
from idtool.errors import IdtoolError, MissingError, UsageError
from idtool.models import addresses, hub, origins, repository, weights
from idtool.models.addresses import Address
from idtool.models.hub import extra_hint as extra_hint

Announce = Callable[[str], None]
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

    def sha256(self) -> str | None:
        """Hash over weights and settings (`digest`); None where they are on a server. Computed once per file."""
        return None if self.model.startswith("api:") else digest(self.path)

    def facts(self) -> dict[str, Any]:
        """Model, revision and hash, for fingerprints."""
        return {"model": self.model, "revision": self.revision, "sha256": self.sha256()}


def find(address: Address) -> Path | None:
    """Where the weights are on this machine, or None. Fetches nothing.

    MissingError when what is there is not what was pinned, or misses parts of split weights in a folder of the user's;
    UsageError when the address cannot be one. In a cache, weights that miss parts count as absent.
    """
    if address.kind == "api":
        return Path()
    found = _local(address) if address.kind == "local" else _in_mirror(address)
    if found is not None:
        _refuse_partial(found)
    elif address.kind != "local":
        found = origins.CACHED[address.kind](address)
        # The pack's folder; the other caches know of files.
        found = found / address.file if found and address.file and found.is_dir() else found
    if found is None or not found.exists():
        return None
    if address.sha256 and _content_hash(found) != address.sha256:
        raise MissingError(
            f"{found} is not the pinned file of {address} (sha256 {address.sha256[:16]}… is expected).",
            "Replace it, or correct `sha256` in pipelines.yaml.",
        )
    return found


def obtain(address: Address, *, announce: Announce | None = None) -> Path:
    """The weights, fetched when they are not here, which `announce` is told (default: a line on standard error).

    MissingError when they cannot be had, with what to do.
    """
    found = find(address)
    if found is not None:
        return found
    if address.kind == "local":
        raise MissingError(f"{address} does not exist.", "Correct the path behind `local:` in pipelines.yaml.")
    if (setting := _forbidden(address)) is not None:
        raise MissingError(
            f"Model {address} is not on this machine and {setting} forbids fetching it.",
            f"Unset {setting.partition('=')[0]} and run `idtool models pull`, or put it into the folder of "
            "--models-dir (IDTOOL_MODELS).",
        )
    (announce or _to_stderr)(f"Fetching {address}")
    _fetch(address)
    found = find(address)
    if found is None:
        raise _absent(address, "what was fetched does not hold it")
    return found


def _fetch(address: Address) -> None:
    try:
        origins.FETCH[address.kind](address)
    except IdtoolError:
        raise
    # Libraries that fetch raise whatever their HTTP client does; all of it means that the model cannot be had.
    except Exception as error:
        raise _absent(address, " ".join(str(error).split())[:300] or type(error).__name__) from error


def bound(binding: Binding, *, announce: Announce | None = None) -> Weights:
    """The weights of a binding that is not of the catalogue. For `api:` models the path means nothing."""
    address = addresses.parse(
        binding.model, revision=binding.revision, file=binding.options.get("file"), sha256=binding.sha256
    )
    return Weights(binding.model, obtain(address, announce=announce), binding.revision, binding.licence)


def other(address: str, *, announce: Announce | None = None) -> Weights:
    """The weights at an address that an option of a wrapper names, such as a backbone."""
    return Weights(address, obtain(addresses.parse(address), announce=announce))


def fetch(bindings: Iterable[Binding], *, announce: Announce | None = None, complete: bool = False) -> None:
    """Get everything that some bindings need onto this machine. MissingError for the first that cannot be had.

    `complete`: also ask the hub about repositories that its cache has, where the network allows. Whoever filled the
    cache may have left out a tokenizer, or been interrupted before it; and a branch may have moved on.
    """
    for binding in bindings:
        for address in addresses.of_binding(binding):
            found = find(address)
            if found is None:
                obtain(address, announce=announce)
            elif complete and not address.file and _is_cached(found) and _forbidden(address) is None:
                try:
                    _fetch(address)
                except MissingError:
                    continue  # what is here has to do


def size(path: Path) -> int:
    """Bytes of the weight files at `path`."""
    return sum(file.stat().st_size for file in repository.weight_files(path))


def digest(path: Path) -> str:
    """SHA-256 of a weight file; of a folder, over the names and hashes of its weights and settings.

    Copies of the weights for other libraries do not count, so that a mirror and a cache agree.
    """
    if path.is_file():
        return _file_hash(path)
    lines = [f"{file.relative_to(path).as_posix()} {_file_hash(file)}" for file in repository.telling_files(path)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _file_hash(file: Path) -> str:
    """As `weights.file_hash`, but a large file in the hub's cache is taken at its name, which is its hash."""
    real = file.resolve()
    return real.name if _is_blob(real) and _HASH.fullmatch(real.name) else weights.file_hash(file)


def _content_hash(path: Path) -> str:
    """The hash to compare with a pinned one: of the bytes themselves where it is a file."""
    return weights.file_hash(path) if path.is_file() else digest(path)


def _is_blob(real: Path) -> bool:
    return real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")


def _is_cached(found: Path) -> bool:
    """Whether a folder is a snapshot in the hub's cache."""
    return found.parent.name == "snapshots" and found.parent.parent.name.startswith("models--")


_OF_HUB = ("hf", "open_clip")


def _forbidden(address: Address) -> str | None:
    """The setting that forbids fetching, None when it is allowed."""
    if weights.is_offline():
        return "IDTOOL_OFFLINE=1"
    return hub.offline() if address.kind in _OF_HUB else None


def _local(address: Address) -> Path | None:
    path = Path(address.name).expanduser()
    if address.file and path.is_file():
        raise UsageError(f"local:{address.name} is a file, so option `file` has no place.", "Remove the option.")
    path = path / address.file if address.file else path
    return path if path.exists() else None


def _in_mirror(address: Address) -> Path | None:
    """The file, or the folder when it holds weights: an empty one must not hide what a cache has."""
    root = weights.mirror()
    if root is None:
        return None
    folder = root / address.name if address.kind in ("hf", "github") else root / address.kind / address.name
    if address.kind == "insightface" and (found := origins.pack_folder(folder)) is not None:
        folder = found
    if address.file:
        return folder / address.file if (folder / address.file).is_file() else None
    return folder if folder.is_dir() and repository.weight_files(folder) else None


def _refuse_partial(path: Path) -> None:
    missing = repository.missing_parts(path) if path.is_dir() else []
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise MissingError(f"{path} is incomplete: it misses {shown}.", "Complete it, or remove it.")


def _absent(address: Address, why: str) -> MissingError:
    return MissingError(
        f"Model {address} is not on this machine and cannot be fetched: {why}.",
        "Run `idtool models pull` where there is a network, or put it into the folder of --models-dir.",
    )


def _to_stderr(message: str) -> None:
    sys.stderr.write(f"{message}\n")
