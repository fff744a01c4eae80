"""Repositories of the Hugging Face hub, through its own library: what its cache holds, and fetching what is of use.

open_clip keeps its weights there too, each architecture and tag in a repository of its own.
"""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from idtool.errors import MissingError, UsageError
from idtool.models.addresses import Address
from idtool.models.repository import complete, wanted, weight_names, whole_format


def cached(address: Address, use: Callable[[Iterable[str]], set[str]] = set) -> Path | None:
    """The file or the snapshot folder in the hub's cache; None when it, or some of its weights, is not there.

    `use`: which of a repository's files matter. UsageError for a name that no repository can have.
    """
    hub = _hub()
    if hub is None:
        return None
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        if address.file:
            path = hub.try_to_load_from_cache(address.name, address.file, revision=address.revision)
            return Path(path) if isinstance(path, str) else None
        # No patterns allowed: the library must not ask for files that `fetch` left out.
        folder = Path(
            hub.snapshot_download(address.name, revision=address.revision, local_files_only=True, allow_patterns=[])
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UsageError(f"The hub has no repository that is called {address.name!r}.", str(error)) from error
    listed = _listed(hub, address)
    if listed is None:
        # Single files were fetched, by whom is not known. Every model that loads from a folder has a configuration.
        return folder if complete(folder) and any(folder.glob("*.json")) else None
    return folder if whole_format(folder, use(listed)) else None


def _listed(hub: Any, address: Address) -> list[str] | None:
    """The repository's files as the cache remembers them; None when it does not (nor did the library before 2.0)."""
    if not hasattr(hub, "get_cached_repo_tree"):
        return None
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return [entry.path for entry in hub.get_cached_repo_tree(address.name, revision=address.revision)]
    except CachedRepoTreeNotFoundError:
        return None


def fetch(address: Address) -> None:
    """One file of a repository, or all of it that is of use here. MissingError when the hub refuses it."""
    with _refusals(address) as hub:
        if address.file:
            hub.hf_hub_download(address.name, address.file, revision=address.revision)
            return
        names = hub.HfApi().list_repo_files(address.name, revision=address.revision)
        _snapshot(hub, address, names)


def _snapshot(hub: Any, address: Address, names: Iterable[str]) -> None:
    exact = [glob.escape(name) for name in wanted(names)]
    hub.snapshot_download(address.name, revision=address.revision, allow_patterns=exact)


@contextmanager
def _refusals(address: Address) -> Iterator[Any]:
    """The hub's library; what only the user can do something about becomes a MissingError that says what."""
    hub = _hub()
    if hub is None:
        raise _needs_extra(address)
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    login = "log in with `hf auth login` (or set HF_TOKEN)."
    try:
        yield hub
    except GatedRepoError as error:
        raise MissingError(
            f"Model {address} is only given to those who accept its terms.", f"Accept them on its page, then {login}"
        ) from error
    except RevisionNotFoundError as error:
        raise MissingError(f"Model {address} has no revision {address.revision!r}.", "Correct it.") from error
    except RepositoryNotFoundError as error:
        raise MissingError(
            f"The hub shows no repository {address.name!r}.", f"Check its name; if it is a private one, {login}"
        ) from error


def offline() -> str | None:
    """The setting that keeps the hub's library from the network, None when there is none."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"{name}=1"
    return None


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        return None
    return huggingface_hub


def open_clip_cached(address: Address) -> Path | None:
    """The snapshot folder of the hub repository that holds an architecture's tag."""
    there = _on_hub(address)
    return cached(there, _for_open_clip) if there else None


def open_clip_fetch(address: Address) -> None:
    """The repository's open_clip weights, not the copies of them for other libraries."""
    there = _on_hub(address)
    if there is None:
        raise _needs_extra(address)
    with _refusals(there) as hub:
        _snapshot(hub, there, _for_open_clip(hub.HfApi().list_repo_files(there.name)))


def _for_open_clip(names: Iterable[str]) -> set[str]:
    """A repository's files without the copies of the weights for transformers."""
    listed = set(names)
    if not any(name.startswith("open_clip_") for name in weight_names(listed)):
        return listed
    return {name for name in listed if not name.startswith(("model", "pytorch_model"))}


def _on_hub(address: Address) -> Address | None:
    """Where on the hub open_clip keeps an architecture's tag; None when open_clip is not installed."""
    if _hub() is None:
        return None
    try:
        from open_clip.pretrained import get_pretrained_cfg
    except ImportError:
        return None
    architecture, _, tag = address.name.rpartition("/")
    facts = get_pretrained_cfg(architecture, tag)
    owner, _, rest = str(facts.get("hf_hub", "")).partition("/")
    repo = rest.partition("/")[0]
    if not owner or not repo:
        raise UsageError(
            f"open_clip knows no weights {tag!r} of {architecture!r} on the hub.",
            "`open_clip.list_pretrained()` lists what it knows.",
        )
    return Address("hf", f"{owner}/{repo}")


@functools.cache
def extra_hint() -> str:
    """How to install what the hub's models need."""
    return "Install the extra: pip install 'idtool[models]' (in a clone: uv sync --extra models)."


def _needs_extra(address: Address) -> MissingError:
    return MissingError(f"Model {address} needs packages that are not installed.", extra_hint())
