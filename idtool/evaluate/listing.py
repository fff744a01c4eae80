"""What `idtool metrics list|show` prints."""

from __future__ import annotations

from typing import Any

from idtool.config import ConfigFile
from idtool.engine.step import Env
from idtool.evaluate.measures import MEASURES
from idtool.evaluate.metrics import METRICS
from idtool.evaluate.scoring import choose
from idtool.generate.pipeline import choose_profile


def rows(file: ConfigFile, profile: str) -> list[dict[str, Any]]:
    """Every family with its direction, bounds, and whether the profile has the networks for it."""
    env = _env(file, profile)
    return [_row(name, env) for name in METRICS]


def show(file: ConfigFile, name: str, profile: str) -> dict[str, Any]:
    """All that is known of a family. UsageError for an unknown one."""
    import inspect
    import sys

    env = _env(file, profile)
    cls = METRICS.get(name)
    chosen = choose([name], env)
    measures = dict.fromkeys(
        one for metric in chosen.metrics for one in (*metric.image, *metric.reference, *metric.prompt)
    )
    module = sys.modules[cls.__module__]
    return {
        **_row(name, env),
        "definition": inspect.getdoc(cls) or "",
        "about": inspect.getdoc(module) or "",
        "paper": cls.paper,
        "per": cls.per,
        "measures": {one: MEASURES.get(one).summary for one in measures},
        "networks": [f"{binding.role}: {binding.model} ({binding.licence})" for binding in _bindings(measures, env)],
        "profile": env.profile,
    }


def _bindings(measures: Any, env: Env) -> list[Any]:
    found: dict[str, Any] = {}
    for name in measures:
        for binding in MEASURES.get(name).made(env).bindings():
            found.setdefault(f"{binding.role} {binding.model}", binding)
    return list(found.values())


def _row(name: str, env: Env) -> dict[str, Any]:
    cls = METRICS.get(name)
    chosen = choose([name], env)
    low, high = cls.bounds
    return {
        "metric": name,
        "summary": cls.summary,
        "axis": cls.axis,
        "per": cls.per,
        "better": cls.better,
        "bounds": f"{'' if low is None else f'{low:g}'} .. {'' if high is None else f'{high:g}'}",
        "unit": cls.unit,
        "networks": len(chosen.metrics),
        "why_not": chosen.skipped.get(name, ""),
    }


def _env(file: ConfigFile, profile: str) -> Env:
    name, _ = choose_profile(file, profile)
    return Env(name, file.profile(name).bindings())
