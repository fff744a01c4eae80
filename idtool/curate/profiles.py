"""Which profile: `auto` settled by what is really here, with the reason in words."""

from __future__ import annotations

from collections.abc import Iterable

from idtool.config import ConfigFile, ResolvedRecipe
from idtool.curate.registry import STEPS
from idtool.engine.step import Binding, Env
from idtool.machine import find_cuda
from idtool.models import lacking, obstacle


def choose_profile(file: ConfigFile, recipe: ResolvedRecipe, name: str) -> tuple[str, str]:
    """The profile to use and why. `auto` takes the first of the file's `auto` list that fits: its device is here and
    the models that the recipe asks of it can be loaded, with packages that are installed; else the last. UsageError for
    a name the file does not have."""
    if name != "auto":
        file.profile(name)
        return name, "asked for by name"
    *candidates, last = file.config.auto
    passed_over = []
    for candidate in candidates:
        profile = file.profile(candidate)
        cuda = find_cuda() if profile.device == "cuda" else None
        if profile.device == "cuda" and cuda is None:
            passed_over.append(f"{candidate} needs CUDA, and none is here")
            continue
        here = f"CUDA is here ({cuda})" if cuda else ""
        why_not = _first_obstacle(_asked_for(recipe, Env(candidate, profile.bindings(), methods=file.config.methods)))
        if why_not is None:
            return candidate, here or "its models can be loaded here"
        passed_over.append(f"{f'{here}, but ' if here else ''}{candidate} was passed over: {why_not}")
    return last, "; ".join(passed_over) or "the only one listed under `auto`"


def _asked_for(recipe: ResolvedRecipe, env: Env) -> Iterable[Binding]:
    """Every model whose output the recipe would use under this profile."""
    for step in recipe.steps:
        yield from STEPS.get(step.kind)(step.settings, env).models()


def _first_obstacle(bindings: Iterable[Binding]) -> str | None:
    """What keeps the first of the models that cannot be loaded here, be it this version or a missing package."""
    for binding in bindings:
        why = obstacle(binding) or lacking(binding)
        if why is not None:
            return f"role {binding.role} is bound to {binding.model}, and {why}"
    return None
