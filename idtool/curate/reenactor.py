"""Generation methods of step `reenact`: the profile's role `reenactor` as a program (kind `command`), and a method that
makes the pictures anew.

The role's model is what the program gets as weights. Options of the binding are settings of kind `command`: `runner`
(liveportrait, face_adapter) with `repo`, or `python` and `script`. Two more: `slot`, where the model goes (default: the
runner's `weights`, else `base`), and `models`, the other slots, bound as in
methods: `{base: {model: …, licence: …}}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from idtool.config_models import MethodConfig
from idtool.engine.step import Binding, Env
from idtool.errors import UsageError
from idtool.generate.method import Method, Spec
from idtool.models import unbound
from idtool.models.addresses import FURTHER, SOURCE_OPTIONS

ROLE = "reenactor"
PROGRAMS = ("runner", "script", "argv")
_OURS = ("slot", "models", *SOURCE_OPTIONS, *FURTHER)


def why_not(env: Env) -> str | None:
    """Why the profile's reenactor cannot be used, or None."""
    if why := unbound(env, ROLE):
        return why
    binding = env.require(ROLE)
    why = _obstacle(binding)
    return f"role {ROLE} is bound to {binding.model}, and {why}" if why else None


def _obstacle(binding: Binding) -> str | None:
    from idtool.generate.runners import definition

    if not any(binding.options.get(name) for name in PROGRAMS):
        return "its options name no program: give `runner` (liveportrait, face_adapter) and `repo`, a checkout"
    spec = program(binding)
    method = method_of(spec)
    if not method.people[0] <= 2 <= method.people[1]:
        return f"its program takes {method.people[0]} to {method.people[1]} pictures, and needs portrait and driver"
    if why := type(method).why_not(spec, {}):
        return why
    if runner := binding.options.get("runner"):
        published = definition(runner).models.get(slot_of(binding), "")
        if published.startswith("local:") and not binding.model.startswith("local:"):
            return f"its weights are not fetched: bind local:<folder>, {published.partition(': ')[2]}"
    return None


def slot_of(binding: Binding) -> str:
    """The slot of the program that the role's model goes to."""
    from idtool.generate.runners import definition

    runner = binding.options.get("runner")
    asks = definition(runner).models if runner else {}
    return str(binding.options.get("slot") or ("weights" if "weights" in asks else "base"))


def program(binding: Binding) -> Spec:
    """The program that a binding of role `reenactor` describes. UsageError for options that are none."""
    options = binding.options
    settings = {name: value for name, value in options.items() if name not in _OURS}
    if "runner" in settings and not {"argv", "python", "venv", "environment"} & set(settings):
        settings["environment"] = "own"
    settings = {"people": [2, 2], "prompt": False, **settings}
    weights = {name: value for name, value in options.items() if name in (*SOURCE_OPTIONS, *FURTHER)}
    own = {
        "model": binding.model,
        "revision": binding.revision,
        "licence": binding.licence,
        "options": weights,
        "sha256": binding.sha256,
    }
    models = {**options.get("models", {}), slot_of(binding): own}
    entry = {"kind": "command", "models": models, "settings": settings}
    try:
        config = MethodConfig.model_validate(entry)
    except ValidationError as error:
        raise UsageError(f"Role {ROLE}, bound to {binding.model}: {_first(error)}.") from error
    return spec_of(f"{ROLE} {binding.model}", config)


def spec_of(name: str, entry: MethodConfig) -> Spec:
    """A method entry, as under `methods` of pipelines.yaml, as its kind takes it. UsageError for what it has not."""
    from idtool.generate.registry import METHODS
    from idtool.registry import did_you_mean

    cls = METHODS.get(entry.kind)
    known = {**cls.slots, **cls.optional}
    for slot in entry.models:
        if slot not in known:
            raise UsageError(f"{name} ({entry.kind}) has no model slot {slot!r}.", did_you_mean(slot, known))
    try:
        settings = cls.Settings.model_validate(entry.settings)
    except ValidationError as error:
        raise UsageError(f"{name}: {_first(error)}.") from error
    bindings = {slot: one.bound_to(slot) for slot, one in entry.models.items()}
    return Spec(name, entry.kind, bindings, settings, entry.licence, entry.conditions_on)


def method_of(spec: Spec, roles: Mapping[str, Sequence[Binding]] | None = None) -> Method:
    """The method, not loaded. `roles`: the profile's."""
    from idtool.generate.registry import METHODS

    return METHODS.get(spec.kind)(spec, roles)


def named(spec: Spec) -> str:
    """A method for column `generator`: its program or kind, and its models with their revisions."""
    models = [f"{one.model}@{one.revision}" if one.revision else one.model for one in spec.bindings.values()]
    return " ".join([getattr(spec.settings, "runner", None) or spec.kind, *models])


def licence(spec: Spec) -> str:
    """The terms of a method: its own, those of the ready runner, and those of its models."""
    from idtool.generate.runners import definition

    runner = getattr(spec.settings, "runner", None)
    own = spec.licence or (definition(runner).licence if runner else None)
    return ", ".join(dict.fromkeys([*([own] if own else []), *(one.licence for one in spec.bindings.values())]))


def _first(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
