"""regression.yaml: what a benchmark must not fall short of, and the check of a comparison against it.

version: 1
alpha: 0.05
rules:
  - {metric: "facesim/*", max_drop: 0.02, significant: true}
  - {metric: face_found, method: "*", min: 0.95}
  - {metric: clip_t/*, slice: category, min: 0.2, optional: true}
  - {metric: facesim/*, n: 48, max_missing: 0}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from idtool.evaluate.report_schema import ALL
from idtool.evaluate.statistics.correction import holm
from idtool.yaml_model import read_model

Row = Mapping[str, Any]
LIMITS = ("max_drop", "min", "max", "n", "min_n", "max_missing")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Rule(_Model):
    """Limits for the rows that the patterns name (shell patterns: `*`, `?`, `[ab]`)."""

    metric: str = Field(min_length=1)
    """Pattern of metrics, such as `facesim/*`."""
    method: str = Field("*", min_length=1)
    """Pattern of methods."""
    slice: str = Field(ALL, min_length=1)
    """`all`, or a slice with all its values (`category`), or one value (`category=Style`)."""
    max_drop: float | None = Field(None, ge=0)
    """How much worse the mean may get, in units of the metric; either way, where neither side is better."""
    significant: bool = False
    """A drop counts only when its p-value, corrected for the rows of this rule (Holm), is below `alpha`."""
    min: float | None = None
    """Lowest mean."""
    max: float | None = None
    """Highest mean."""
    n: int | None = Field(None, ge=0)
    """Number of scored samples, exactly."""
    min_n: int | None = Field(None, ge=0)
    """Fewest scored samples."""
    max_missing: int | None = Field(None, ge=0)
    """Most samples without a score."""
    optional: bool = False
    """Nothing is wrong when no row fits, or when a row of before is gone."""

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        if all(getattr(self, name) is None for name in LIMITS) and not self.significant:
            raise ValueError(f"the rule has no limit. Give one of {', '.join(LIMITS)}.")
        return self

    @property
    def drop(self) -> float | None:
        """`max_drop`; `significant` alone allows none."""
        return 0.0 if self.max_drop is None and self.significant else self.max_drop

    def fits(self, row: Row) -> bool:
        wanted = self.slice if self.slice == ALL or "=" in self.slice else f"{self.slice}=*"
        return (
            fnmatchcase(row["metric"], self.metric)
            and fnmatchcase(row["method"], self.method)
            and fnmatchcase(place(row), wanted)
        )


class Rules(_Model):
    """All of regression.yaml."""

    version: Literal[1]
    alpha: float = Field(0.05, gt=0, lt=1)
    """Level of `significant`."""
    rules: list[Rule] = Field(min_length=1)


def place(row: Row) -> str:
    """`all`, or `category=Style`."""
    return ALL if row["slice"] == ALL else f"{row['slice']}={row['slice_value']}"


def load_rules(path: Path) -> Rules:
    """Read and check regression.yaml. UsageError with file and line of everything that is wrong."""
    return read_model(path, Rules, "Give a file of rules.")


def violations(rules: Rules, rows: Sequence[Row], *, before: bool) -> list[dict[str, Any]]:
    """What breaks a rule, in the order of the rules: `rule` (its number from 1), `metric`, `method`, `slice`, `limit`
    (its name), `allowed`, `found`, `message`. `rows`: differences as `compare` makes them. `before`: whether there is
    something to compare with; without it drops are not judged."""
    found = []
    for number, rule in enumerate(rules.rules, 1):
        fitting = [row for row in rows if rule.fits(row)]
        if not any(row["n_after"] is not None for row in fitting) and not rule.optional:
            what = f"no score of metric {rule.metric!r}, method {rule.method!r}, slice {rule.slice!r}"
            found.append(_violation(number, None, "present", True, False, what))
            continue
        for row in fitting:
            if row["n_after"] is None:
                if not rule.optional:
                    found.append(_violation(number, row, "present", True, False, "is gone: it was scored before"))
                continue
            found += [_violation(number, row, *one) for one in _floors(rule, row)]
        if before and rule.drop is not None:
            found += [_violation(number, row, *one) for row, *one in _drops(rule, fitting, rules.alpha)]
    return found


def _floors(rule: Rule, row: Row) -> Iterable[tuple[str, Any, Any, str]]:
    mean, n, missing = row["after"], row["n_after"], row["missing_after"]
    for name, side, limit in (("min", 1, rule.min), ("max", -1, rule.max)):
        if limit is not None and mean is None:
            yield name, limit, None, f"has no mean ({row['note'] or 'nothing is scored'})"
        elif limit is not None and side * (mean - limit) < 0:
            yield name, limit, mean, f"is {mean:.4g}, {'below' if side > 0 else 'above'} {limit:g}"
    if rule.n is not None and n != rule.n:
        yield "n", rule.n, n, f"has {n} scored samples, not {rule.n}"
    if rule.min_n is not None and n < rule.min_n:
        yield "min_n", rule.min_n, n, f"has {n} scored samples, fewer than {rule.min_n}"
    if rule.max_missing is not None and missing > rule.max_missing:
        yield "max_missing", rule.max_missing, missing, f"lacks {missing} scores, more than {rule.max_missing}"


def _drops(rule: Rule, rows: Sequence[Row], alpha: float) -> Iterable[tuple[Row, str, Any, Any, str]]:
    known = [row for row in rows if row["before"] is not None and row["n_after"] is not None]
    corrected = holm([float("nan") if row["p"] is None else row["p"] for row in known])
    allowed = rule.drop or 0.0
    for row, p in zip(known, corrected.tolist(), strict=True):
        if row["after"] is None:
            yield row, "max_drop", allowed, None, f"has no mean any more (it was {row['before']:.4g})"
            continue
        change = row["difference"]
        drop = {"higher": -change, "lower": change}.get(row["better"], abs(change))
        # Differences of floating-point means: a limit that is met to the last digit is met.
        if drop <= allowed + 1e-12:
            continue
        told = f"is {drop:.4g} worse than before ({row['before']:.4g} to {row['after']:.4g}), more than {allowed:g}"
        if not rule.significant:
            yield row, "max_drop", allowed, drop, told
        elif p != p:
            yield row, "max_drop", allowed, drop, f"{told}, and there is no p-value to call it chance"
        elif p < alpha:
            yield row, "max_drop", allowed, drop, f"{told}, p = {p:.2g}"


def _violation(number: int, row: Row | None, limit: str, allowed: Any, found: Any, what: str) -> dict[str, Any]:
    where = {"metric": row["metric"], "method": row["method"], "slice": place(row)} if row else {}
    name = f"{row['method']}, {row['metric']}, {place(row)}: " if row else ""
    return {"rule": number, **where, "limit": limit, "allowed": allowed, "found": found, "message": f"{name}{what}"}
