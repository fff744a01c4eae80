"""The methods of pipelines.yaml: resolved to specs and classes, listed and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from idtool.config import FILE, ConfigFile
from idtool.config_errors import findings
from idtool.config_models import MethodConfig
from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.generate.method import Method, Spec
from idtool.generate.registry import METHODS
from idtool.registry import did_you_mean

Roles = Mapping[str, Sequence[Binding]]


@dataclass(frozen=True)
class MethodRow:
    """One method, as a list or a report shows it."""

    method: str
    kind: str
    summary: str
    baseline: bool
    people: str
    """How many people one image may show."""
    references: str
    """What a reference must be."""
    conditions_on: str | None
    size: str
    vram_gib: float | None
    licence: str
    state: str
    """`ready`, `fetch` (weights to be downloaded), `server`, or `cannot` with the reason in `why`."""
    why: str


def resolve(file: ConfigFile, name: str, sets: Mapping[str, Any] | None = None) -> tuple[type[Method], Spec]:
    """A method's class and spec, with `sets` over its settings. UsageError for an unknown name, kind or setting."""
    return resolve_in(file.config.methods, name, sets, file.origin)


def resolve_in(
    methods: Mapping[str, MethodConfig], name: str, sets: Mapping[str, Any] | None = None, origin: str = FILE
) -> tuple[type[Method], Spec]:
    """`resolve`, from the methods alone. `origin`: where they are written, for messages."""
    if name not in methods:
        raise UsageError(f"{origin} has no method {name!r}.", did_you_mean(name, methods))
    entry = methods[name]
    cls = METHODS.get(entry.kind)
    known = {**cls.slots, **cls.optional}
    for slot in entry.models:
        if slot not in known:
            raise UsageError(f"Method {name!r} ({entry.kind}) has no model slot {slot!r}.", did_you_mean(slot, known))
    values = {**entry.settings, **(sets or {})}
    try:
        settings = cls.Settings.model_validate(values)
    except ValidationError as error:
        first = findings(error, cls.Settings, values)[0]
        where = ".".join(["methods", name, "settings", *map(str, first.path)])
        raise UsageError(f"{where}: {first.text}") from error
    bindings = {slot: one.bound_to(slot) for slot, one in entry.models.items()}
    return cls, Spec(name, entry.kind, bindings, settings, entry.licence, entry.conditions_on)


def rows(file: ConfigFile, roles: Roles) -> list[MethodRow]:
    """Every method of the file under a profile's roles; one whose plug-in is broken says so. Fetches nothing."""
    found = []
    for name, entry in file.config.methods.items():
        try:
            found.append(row(file, name, roles))
        except MissingError as error:
            found.append(MethodRow(name, entry.kind, "", False, "", "", None, "", None, "", "cannot", error.message))
    return found


def row(file: ConfigFile, name: str, roles: Roles) -> MethodRow:
    """One method, with whether it can run here."""
    cls, spec = resolve(file, name)
    method = cls(spec, roles)
    state, why = state_of(cls, spec, roles)
    fewest, most = method.people
    terms = dict.fromkeys(one.licence for one in _models(cls, spec, roles))
    return MethodRow(
        method=name,
        kind=spec.kind,
        summary=file.config.methods[name].summary or cls.summary,
        baseline=cls.baseline,
        people=f"{fewest}" if fewest == most else f"{fewest} to {most}",
        references="a face" if method.needs_face else ("a picture" if most else "none"),
        conditions_on=spec.conditions_on,
        size=f"{spec.settings.width} x {spec.settings.height}",
        vram_gib=cls.vram_gib,
        licence=spec.licence or "; ".join(terms) or "none of its own",
        state=state,
        why=why,
    )


def show(file: ConfigFile, name: str, roles: Roles) -> dict[str, Any]:
    """All that is known of a method."""
    from dataclasses import asdict

    cls, spec = resolve(file, name)
    method = cls(spec, roles)
    return {
        **asdict(row(file, name, roles)),
        "models": {one["slot"]: {key: one[key] for key in ("model", "revision", "licence")} for one in spec.models()},
        "roles": list(cls.roles),
        "takes_boxes": method.takes_boxes,
        "multiple": method.multiple,
        "settings": spec.settings.model_dump(mode="json"),
    }


def state_of(cls: type[Method], spec: Spec, roles: Roles) -> tuple[str, str]:
    """Whether a method can run here, as `MethodRow.state` and `why`. Looks at files, fetches nothing."""
    from idtool.models.manage import state_of as state_of_model

    why = cls.why_not(spec, roles)
    if why is None and cls(spec, roles).needs_face and not roles.get("faces"):
        why = "needs role faces, which the profile does not bind"
    if why is not None:
        return "cannot", why
    # Pipelines and adapters are read by the method itself; the profile's other roles by their wrappers.
    states = {
        binding.model: state_of_model(binding, files_only=binding.role in spec.bindings)
        for binding in _models(cls, spec, roles)
    }
    for model, (state, where) in states.items():
        if state in ("damaged", "no packages", "not built"):
            return "cannot", f"{model}: {where}"
    missing = [model for model, (state, _) in states.items() if state == "fetch"]
    if missing:
        return "fetch", f"not here yet: {', '.join(missing)}"
    return ("server", "") if any(state == "server" for state, _ in states.values()) else ("ready", "")


def _models(cls: type[Method], spec: Spec, roles: Roles) -> list[Binding]:
    """Every model that running it would use."""
    used = [roles[role][0] for role in cls.roles if roles.get(role)]
    return [*spec.bindings.values(), *used]
