"""What `idtool models list | show | pull | check` do. All of them work on a profile's bindings: role -> models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idtool.engine.step import Binding
from idtool.errors import IdtoolError, MissingError, UsageError
from idtool.models import addresses, format_of, lacking, load, obstacle, sources, weights
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
    """Package and version, or the address with its revision."""
    format: str
    """What reads it: a key of `idtool.models.WRAPPERS`; empty when nothing does."""
    bytes: int | None
    """Size on disk; None when unknown."""
    memory: int | None
    """Bytes that it needs when loaded, estimated (`memory_of`); None while its weights are not here."""
    download: int | None
    """Size of the archive that brings it; archives may be shared. None when unknown."""
    state: str
    """`here`, `fetch` (to be downloaded), `server` (nothing to download), `damaged`, `no packages` (an extra is to be
    installed) or `not built` (this version cannot load it)."""
    where: str
    """Path of the weights here, or what is wrong; empty when they are not here."""


@dataclass(frozen=True)
class Pulled:
    """What a pull did."""

    models: tuple[str, ...]
    """Models whose weights are now here."""
    downloaded: int
    """Bytes."""
    left_out: Mapping[str, str]
    """Model -> why it was not pulled: nothing to download, or nothing here could load it."""
    failed: Mapping[str, str]
    """Model -> why it could not be had."""


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


def show(model: str, profiles: Mapping[str, Bindings]) -> dict[str, Any]:
    """All that is known of one model: a name of the catalogue, or an address that some profile binds.

    MissingError with the nearest names when there is none of either.
    """
    if addresses.is_offline_name(model) and model in catalogue():
        return _show_offline(model)
    uses = [
        (name, binding)
        for name, bindings in profiles.items()
        for bound in bindings.values()
        for binding in bound
        if binding.model == model
    ]
    if not uses:
        known = {b.model for bindings in profiles.values() for bound in bindings.values() for b in bound}
        raise MissingError(
            f"No profile binds {model!r}, and no offline weights are called so.",
            did_you_mean(model, sorted(known | set(catalogue()))),
        )
    binding = uses[0][1]
    row = _row(binding)
    facts: dict[str, Any] = {
        "model": model,
        "bound": {name: sorted({b.role for n, b in uses if n == name}) for name, _ in uses},
        "revision": binding.revision or "not pinned",
        "licence": binding.licence,
        "commercial": binding.commercial,
        "options": dict(binding.options),
        "thresholds": dict(binding.thresholds),
        "format": row.format,
        "state": row.state,
        "where": row.where,
        "bytes": row.bytes,
        "memory": row.memory,
    }
    if row.state == "here":
        facts["sha256"] = sources.digest(Path(row.where))
    return facts


def _show_offline(name: str) -> dict[str, Any]:
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
        "memory": row.memory,
    }


def pull(
    bindings: Bindings, roles: Iterable[str] | None = None, *, announce: Callable[[str], None] | None = None
) -> Pulled:
    """Fetch the weights of a profile, or of some of its roles. A model that cannot be had does not keep the others."""
    here: dict[str, None] = {}
    left_out: dict[str, str] = {}
    failed: dict[str, str] = {}
    downloaded = 0
    for binding in _chosen(bindings, roles):
        why = obstacle(binding) or ("runs on a server" if binding.model.startswith("api:") else None)
        if why is not None:
            left_out[binding.model] = why
            continue
        try:
            if addresses.is_offline_name(binding.model):
                downloaded += weights.fetch([binding.model], announce=announce)
            else:
                before = {address: sources.find(address) for address in addresses.of_binding(binding)}
                sources.fetch([binding], announce=announce, complete=True)
                new = [path for address, was in before.items() if was is None and (path := sources.find(address))]
                downloaded += sum(sources.size(path) for path in new)
        except IdtoolError as error:
            failed[binding.model] = str(error)
        else:
            here[binding.model] = None
    return Pulled(tuple(here), downloaded, left_out, failed)


def memory_of(weight_bytes: int, dtype: str = "float32") -> int:
    """Bytes that a network of `weight_bytes` on disk needs when loaded, estimated.

    Weights of hub checkpoints are nearly all stored in two bytes a number from some 2 GB on, and in four below;
    inference adds buffers and a library's own share. A quarter on top and 300 MB, rounded up, held for the networks
    that were measured (docs/models.md).
    """
    stored = 2 if weight_bytes > 2e9 else 4
    loaded = weight_bytes * {"float32": 4, "float16": 2, "bfloat16": 2}.get(dtype, stored) / stored
    return int(loaded * 1.25 + 300e6)


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
    state, where = state_of(binding)
    if weight is not None:
        return ModelRow(
            role=binding.role,
            model=weight.name,
            title=weight.title,
            licence=weight.licence,
            commercial=weight.commercial,
            source=f"{weight.archive.package}=={weight.archive.version}",
            format=weight.name,
            bytes=weight.bytes,
            memory=memory_of(weight.bytes),
            download=weight.archive.bytes,
            state=state,
            where=where,
        )
    size = sources.size(Path(where)) if state == "here" else None
    return ModelRow(
        role=binding.role,
        model=binding.model,
        title=binding.model,
        licence=binding.licence,
        commercial=binding.commercial,
        source=f"{binding.model}@{binding.revision}" if binding.revision else binding.model,
        format=(format_of(binding) or "") if obstacle(binding) is None else "",
        bytes=size,
        memory=None if size is None else memory_of(size, str(binding.options.get("dtype", "float32"))),
        download=None,
        state=state,
        where=where,
    )


def state_of(binding: Binding, *, files_only: bool = False) -> tuple[str, str]:
    """State and place of a model (or what is wrong), as `ModelRow` has them. Fetches nothing. `files_only`: what reads
    the files is not the wrappers' matter but a method's."""
    if not files_only and (why := obstacle(binding)) is not None:
        return "not built", why
    if not files_only and (why := lacking(binding)) is not None:
        return "no packages", why
    weight = catalogue().get(binding.model)
    if binding.model.startswith("api:"):
        return "server", ""
    try:
        if weight is not None:
            found = weights.find(weight)
        else:
            places = [sources.find(address) for address in addresses.of_binding(binding)]
            found = None if None in places else places[0]
    except IdtoolError as error:
        return "damaged", error.message
    return ("fetch", "") if found is None else ("here", str(found))
