"""What `idtool models list | show | pull | check` do. All of them work on a profile's bindings: role -> models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import load, obstacle, weights
from idtool.models.catalog import catalogue, entry
from idtool.models.probes import probe
from idtool.registry import did_you_mean

Bindings = Mapping[str, tuple[Binding, ...]]


@dataclass(frozen=True)
class ModelRow:
    """One model in one role, as a list or table shows it."""

    role: str
    model: str
    title: str
    licence: str
    commercial: str
    """yes, no or unknown."""
    source: str
    """Package and version, or the address in the binding."""
    bytes: int | None
    """Size on disk; None when unknown."""
    download: int | None
    """Size of the archive that brings it; archives may be shared."""
    state: str
    """`cached`, `fetch` (to be downloaded), `damaged` or `not built` (this version cannot load it)."""
    where: str
    """Path of the weights here, empty when they are not."""


@dataclass(frozen=True)
class Pulled:
    """What a pull did."""

    models: tuple[str, ...]
    """Models whose weights are now here."""
    downloaded: int
    """Bytes."""
    left_out: Mapping[str, str]
    """Model -> why it was not pulled."""


@dataclass(frozen=True)
class Checked:
    """How a model did on one drawn sample."""

    role: str
    model: str
    ok: bool
    verdict: str
    load_seconds: float
    run_seconds: float


def rows(bindings: Bindings) -> list[ModelRow]:
    """Every model of a profile, by role. Fetches nothing."""
    return [_row(binding) for binding in _chosen(bindings, None)]


def show(name: str) -> dict[str, Any]:
    """All that is known of one model of the catalogue. MissingError with the nearest names when there is none."""
    weight = entry(name)
    row = _row(Binding(weight.roles[0], name))
    return {
        "model": name,
        "title": weight.title,
        "roles": list(weight.roles),
        "package": f"{weight.archive.package}=={weight.archive.version}",
        "package_licence": weight.archive.licence,
        "network_licence": weight.upstream,
        "commercial": weight.commercial,
        "archive": weight.archive.file,
        "archive_sha256": weight.archive.sha256,
        "download_bytes": weight.archive.bytes,
        "files": {member.name: {"sha256": member.sha256, "bytes": member.bytes} for member in weight.members},
        "note": weight.note,
        "state": row.state,
        "where": row.where,
    }


def pull(
    bindings: Bindings, roles: Iterable[str] | None = None, *, announce: Callable[[str], None] | None = None
) -> Pulled:
    """Fetch the weights of a profile, or of some of its roles. MissingError when one cannot be fetched."""
    chosen = _chosen(bindings, roles)
    left_out = {binding.model: why for binding in chosen if (why := obstacle(binding)) is not None}
    names = tuple(dict.fromkeys(binding.model for binding in chosen if binding.model not in left_out))
    return Pulled(names, weights.fetch(names, announce=announce), left_out)


def check(
    bindings: Bindings, roles: Iterable[str] | None = None, *, device: str = "cpu", threads: int = 1
) -> list[Checked]:
    """Load each model and run it on a drawn face, or draw from it. A model that fails is a row, not an exception."""
    return [_check(binding, device, threads) for binding in _chosen(bindings, roles)]


def _check(binding: Binding, device: str, threads: int) -> Checked:
    started = time.perf_counter()
    loaded = started
    try:
        model = load(binding, device=device, threads=threads)
        loaded = time.perf_counter()
        ok, verdict = probe(binding.role, model)
    # A model that breaks in whatever way is what this command is asked to find out.
    except Exception as error:
        ok, verdict = False, " ".join(str(error).split()) or type(error).__name__
    ended = time.perf_counter()
    return Checked(binding.role, binding.model, ok, verdict, max(0.0, loaded - started), ended - max(loaded, started))


def _chosen(bindings: Bindings, roles: Iterable[str] | None) -> list[Binding]:
    wanted = list(bindings) if roles is None else list(dict.fromkeys(roles))
    for role in wanted:
        if role not in bindings:
            raise UsageError(f"The profile binds no model to role {role!r}.", did_you_mean(role, bindings))
    return [binding for role in wanted for binding in bindings[role]]


def _row(binding: Binding) -> ModelRow:
    weight = catalogue().get(binding.model)
    if weight is None:
        licence = binding.licence
        return ModelRow(
            binding.role, binding.model, binding.model, licence, "unknown", binding.model, None, None, "not built", ""
        )
    try:
        found = weights.find(weight)
        state, where = ("fetch", "") if found is None else ("cached", str(found))
    except MissingError as error:
        state, where = "damaged", error.message
    return ModelRow(
        role=binding.role,
        model=weight.name,
        title=weight.title,
        licence=weight.licence,
        commercial=weight.commercial,
        source=f"{weight.archive.package}=={weight.archive.version}",
        bytes=weight.bytes,
        download=weight.archive.bytes,
        state=state,
        where=where,
    )
