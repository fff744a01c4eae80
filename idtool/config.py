"""pipelines.yaml: profiles (role -> model) and recipes (lists of steps), read, checked and resolved.

Knows no step by itself: the kinds of steps, with their settings, come as a registry.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from idtool.config_errors import findings
from idtool.config_models import Config, Profile, Recipe
from idtool.engine.step import Settings, Step
from idtool.errors import IdtoolError, UsageError
from idtool.overrides import Override, apply_overrides, step_names
from idtool.registry import Registry, did_you_mean
from idtool.yaml_source import KeyPath, Problem, Source, dotted, line_of, parse

FILE = "pipelines.yaml"
SCHEMA_FILE = "pipelines.schema.json"
MAX_PROBLEMS = 10

Steps = Registry[type[Step]]


@dataclass(frozen=True)
class ResolvedStep:
    """A step of a recipe: its name in the run (`gate.2` for the second gate), kind and checked settings."""

    name: str
    kind: str
    settings: Settings


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with its overrides applied and everything checked."""

    recipe: str
    summary: str
    paper: str | None
    max_error_rate: float
    steps: tuple[ResolvedStep, ...]
    source: str
    """Which file it comes from, for people."""
    changes: tuple[str, ...] = ()
    """What the recipe changes for the profile that it was resolved for."""

    def content(self) -> dict[str, Any]:
        """The recipe as it is carried out, every default written out but those that are null; JSON-able."""
        steps = [
            {"step": step.kind, **_without_null_defaults(step.settings, step.settings.model_dump(mode="json"))}
            for step in self.steps
        ]
        facts = {"recipe": self.recipe, "summary": self.summary, "paper": self.paper}
        return {**facts, "max_error_rate": self.max_error_rate, "steps": steps}

    def to_yaml(self) -> str:
        """`content()` as YAML."""
        text: str = yaml.safe_dump(self.content(), sort_keys=False, allow_unicode=True, width=110)
        return text


def _without_null_defaults(value: Any, dumped: Any) -> Any:
    """`dumped` (the JSON of `value`) without the keys that are null and would be so anyway: a bound shows its limits,
    not all that it might have had."""
    if isinstance(value, BaseModel):
        defaults = {name: field.default for name, field in type(value).model_fields.items()}
        return {
            key: _without_null_defaults(getattr(value, key), inner)
            for key, inner in dumped.items()
            if inner is not None or defaults.get(key, ...) is not None
        }
    if isinstance(value, Mapping):
        return {key: _without_null_defaults(inner, dumped[key]) for key, inner in value.items()}
    return dumped


@dataclass(frozen=True)
class ConfigFile:
    """A checked pipelines.yaml and where it was found."""

    config: Config
    origin: str
    steps: Steps = field(repr=False)
    _source: Source = field(repr=False)

    def profile(self, name: str) -> Profile:
        """UsageError with the nearest name when there is none."""
        if name not in self.config.profiles:
            hint = did_you_mean(name, ["auto", *self.config.profiles])
            raise UsageError(f"{self.origin} has no profile {name!r}.", hint)
        return self.config.profiles[name]

    def recipe(self, name: str) -> Recipe:
        """UsageError with the nearest name when there is none."""
        if name not in self.config.recipes:
            raise UsageError(f"{self.origin} has no recipe {name!r}.", did_you_mean(name, self.config.recipes))
        return self.config.recipes[name]

    def recipes(self) -> list[dict[str, Any]]:
        """Name, summary, paper and number of steps of every recipe."""
        return [
            {"recipe": name, "summary": recipe.summary, "paper": recipe.paper, "steps": len(recipe.steps)}
            for name, recipe in self.config.recipes.items()
        ]

    def resolve(self, name: str, sets: Collection[str] = (), profile: str | None = None) -> ResolvedRecipe:
        """The recipe with its changes for a profile (`when`) and then `--set` overrides applied. UsageError for an
        override that fits nothing."""
        recipe = self.recipe(name)
        changes = tuple(recipe.when.get(profile or "", ()))
        steps, overrides = apply_overrides(recipe.steps, [*changes, *sets], self.steps)
        checked, problems = _check_steps(steps, ("recipes", name, "steps"), self._source, self.steps, overrides)
        _raise(problems)
        named = zip(step_names([step["step"] for step in steps]), checked, strict=True)
        resolved = tuple(ResolvedStep(label, kind, settings) for label, (kind, settings) in named)
        return ResolvedRecipe(name, recipe.summary, recipe.paper, recipe.max_error_rate, resolved, self.origin, changes)


def packaged_text() -> str:
    """The pipelines.yaml that is shipped."""
    return resources.files("idtool").joinpath(FILE).read_text("utf-8")


def load_config(path: Path | None, steps: Steps, models: Collection[str] | None = None) -> ConfigFile:
    """Read and check `path`, else ./pipelines.yaml, else the packaged file.

    `models`: names in the catalogue of offline weights; with them, a binding that names something else is a
    problem too. UsageError lists every problem of the file (at most 10).
    """
    text, name, origin = _read(path)
    source = parse(text, name)
    config, problems = _check(source, steps, models)
    _raise([*source.problems, *problems])
    assert config is not None  # noqa: S101 - no problems means that it was built
    return ConfigFile(config, origin, steps, source)


def _read(path: Path | None) -> tuple[str, str, str]:
    """Text, name in messages, and where it was found."""
    local = Path(FILE)
    if path is None and not local.is_file():
        return packaged_text(), FILE, f"the packaged {FILE}"
    chosen = local if path is None else path
    try:
        return chosen.read_text("utf-8"), str(chosen), str(chosen) if path else f"./{FILE}"
    except OSError as error:
        hint = f"`idtool init` writes a {FILE} to start from."
        raise UsageError(f"Cannot read {chosen}: {error.strerror}.", hint) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{chosen} is not UTF-8 text: {error.reason} at byte {error.start}.") from error


def _raise(problems: list[Problem]) -> None:
    if not problems:
        return
    shown = [str(problem) for problem in problems[:MAX_PROBLEMS]]
    if len(problems) > MAX_PROBLEMS:
        shown.append(f"and {len(problems) - MAX_PROBLEMS} more.")
    raise UsageError("\n".join(shown))


def _check(source: Source, steps: Steps, models: Collection[str] | None) -> tuple[Config | None, list[Problem]]:
    if not isinstance(source.data, dict):
        return None, [Problem(source.where(()), f"expected the keys {', '.join(Config.model_fields)}, found none.")]
    problems: list[Problem] = []
    config = None
    try:
        config = Config.model_validate(source.data)
    except ValidationError as error:
        for path, text, key in findings(error, Config, source.data):
            at = (*path, key) if key is not None else path
            problems.append(Problem(source.where(at), f"{dotted(path)}: {text}" if path else text))
    recipes = source.data.get("recipes")
    for name, recipe in (recipes if isinstance(recipes, dict) else {}).items():
        entries = recipe.get("steps") if isinstance(recipe, dict) else None
        if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
            problems += _check_steps(entries, ("recipes", name, "steps"), source, steps)[1]
    if config is not None:
        problems += _check_names(config, source, models)
        problems += _check_changes(config, source, steps)
    return config, sorted(problems, key=line_of)


def _check_names(config: Config, source: Source, models: Collection[str] | None) -> list[Problem]:
    """Names that refer to something: profiles of `auto`, models of the catalogue."""
    problems = []
    for number, name in enumerate(config.auto):
        if name not in config.profiles:
            text = f"auto[{number}]: unknown profile {name!r}. {did_you_mean(name, config.profiles)}"
            problems.append(Problem(source.where(("auto", number)), text))
    for profile_name, profile in config.profiles.items():
        for role, bound in profile.roles.items():
            for number, binding in enumerate(bound):
                if models is None or ":" in binding.model or binding.model in models:
                    continue
                path: KeyPath = ("profiles", profile_name, "roles", role)
                if isinstance(source.data["profiles"][profile_name]["roles"][role], list):
                    path = (*path, number)
                path = (*path, "model")
                text = f"unknown model {binding.model!r}. {did_you_mean(binding.model, models, 'Offline weights')}"
                problems.append(Problem(source.where(path), f"{dotted(path)}: {text}"))
    return problems


def _check_changes(config: Config, source: Source, kinds: Steps) -> list[Problem]:
    """The changes that recipes make for profiles: both must be there, and every change must fit."""
    problems = []
    for name, recipe in config.recipes.items():
        for profile, changes in recipe.when.items():
            here: KeyPath = ("recipes", name, "when", profile)
            if profile not in config.profiles:
                text = f"unknown profile {profile!r}. {did_you_mean(profile, config.profiles)}"
                problems.append(Problem(source.where(here), f"{dotted(here)}: {text}"))
            try:
                steps, overrides = apply_overrides(recipe.steps, changes, kinds)
                problems += _check_steps(steps, ("recipes", name, "steps"), source, kinds, overrides)[1]
            except (IdtoolError, KeyError) as error:  # KeyError: a step without its kind, which is told elsewhere
                if isinstance(error, IdtoolError):
                    problems.append(Problem(source.where(here), f"{dotted(here)}: {error}"))
    return problems


def _check_steps(
    entries: list[dict[str, Any]],
    base: KeyPath,
    source: Source,
    kinds: Steps,
    overrides: Collection[Override] = (),
) -> tuple[list[tuple[str, Settings]], list[Problem]]:
    """Validate each entry by the settings of its kind. Places that an override wrote are reported as `--set …`."""
    checked: list[tuple[str, Settings]] = []
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        here = (*base, index)
        kind = entry.get("step")
        if not isinstance(kind, str):
            text = "the kind of step is missing: expected `- step: <kind>`."
            problems.append(Problem(source.where(here), f"{dotted(here)}: {text}"))
            continue
        try:
            model: type[Settings] = kinds.get(kind).Settings
        except IdtoolError as error:
            problems.append(Problem(source.where((*here, "step")), f"{dotted(here)}: {error}"))
            continue
        values = {key: value for key, value in entry.items() if key != "step"}
        try:
            checked.append((kind, model.model_validate(values)))
        except ValidationError as error:
            for path, text, key in findings(error, model, values):
                at = (*path, key) if key is not None else path
                written = [one for one in overrides if one.wrote(index, at)]
                where = f"--set {written[-1].text}" if written else source.where((*here, *at))
                inner = dotted(path)
                joint = "" if inner.startswith("[") or not inner else "."
                problems.append(Problem(where, f"{dotted(here)} ({kind}){joint}{inner}: {text}"))
    return checked, problems
