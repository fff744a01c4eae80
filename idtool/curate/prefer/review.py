"""The review page: pairs side by side, decided by keys, without a server.

A page is one file that holds its pictures. What is decided is kept in the browser and saved as a JSON file, which
`idtool review RUN --decisions FILE` reads back (`decisions`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from idtool.curate.prefer import table
from idtool.curate.prefer.decisions import FOLDER, FORMAT
from idtool.errors import UsageError
from idtool.evaluate.report.pictures import Pictures, cost
from idtool.run import Run

BUDGET = 12_000_000
"""Bytes of pictures in one page, as they stand in it (base64)."""
PAGE = 50
"""Pairs on one page, at most."""
SIDE, REFERENCE_SIDE = 512, 176
"""Pixels of the longer sides of the two images and of the references."""
SCRIPTS = ("review_state.js", "review_page.js")


def write_pages(
    path: Path, *, blind: bool = False, seed: int = 0, per_page: int = PAGE, budget: int = BUDGET, again: bool = False
) -> dict[str, Any]:
    """Write RUN/review/page-001.html and so on; returns `{pages, pairs, first}`.

    `blind`: sides are drawn from `seed` and the pair's id, and nothing that is shown tells which image was chosen.
    `again`: only pairs that a review left undecided. UsageError where there is nothing to show.
    """
    run = table.open_run(path)
    folder = run.path / FOLDER
    total = sum(1 for _ in _to_review(run, again))
    if not total:
        raise UsageError(f"{path} has no pair to review.", "Every pair is decided." if again else "Mine some first.")
    about = {
        "format": FORMAT,
        "run": run.manifest["pairs_hash"],
        "name": run.path.name,
        "rule": run.manifest["rule"],
        "blind": blind,
        "seed": seed,
        "total": total,
    }
    folder.mkdir(exist_ok=True)
    names: list[str] = []
    done = 0
    for number, (shown, pictures) in enumerate(_pages(_to_review(run, again), blind, seed, per_page, budget), 1):
        done += len(shown)
        names.append(f"page-{number:03d}.html")
        content = {**about, "page": number, "last": done == total, "pairs": shown, "pictures": pictures.data}
        _write(folder / names[-1], render(content))
    for stale in set(folder.glob("page-*.html")) - {folder / name for name in names}:
        stale.unlink()
    return {"run": str(run.path), "pairs": total, "pages": len(names), "first": str(folder / names[0])}


def _to_review(run: Run, again: bool) -> Iterator[dict[str, Any]]:
    """All pairs as mined, or those of the reviewed ones that nobody decided."""
    if again:
        yield from (row for row in table.pairs_of(run) if row["decision"] is None)
        return
    for batch in table.mined(run).batches(rows=table.ROWS):
        yield from batch.to_pylist()


def _pages(
    pairs: Iterable[Mapping[str, Any]], blind: bool, seed: int, per_page: int, budget: int
) -> Iterator[tuple[list[dict[str, Any]], Pictures]]:
    """The pairs of each page with their pictures. A page ends when it is full, or when there is no room for the
    pictures of one more pair."""
    shown: list[dict[str, Any]] = []
    pictures = Pictures(Path("/"), budget)
    for pair in pairs:
        # Detailed pictures take twice what is reckoned.
        room = 2 * (2 * cost(SIDE) + len(pair["references"]) * cost(REFERENCE_SIDE))
        if shown and (len(shown) >= per_page or pictures.left < room):
            yield shown, pictures
            shown, pictures = [], Pictures(Path("/"), budget)
        shown.append(_shown(pair, pictures, blind, seed))
    if shown:
        yield shown, pictures


def chosen_left(pair: str, seed: int, blind: bool) -> bool:
    """On which side the chosen image stands: on the left, or in a blind review on one that is drawn."""
    return not blind or hashlib.sha256(f"review\0{seed}\0{pair}".encode()).digest()[0] % 2 == 0


def _shown(pair: Mapping[str, Any], pictures: Pictures, blind: bool, seed: int) -> dict[str, Any]:
    """A pair as the page's script takes it."""
    sides = ["chosen", "rejected"] if chosen_left(pair["id"], seed, blind) else ["rejected", "chosen"]
    told: dict[str, Any] = {
        "id": pair["id"],
        "sides": sides,
        "images": [pictures.use(pair[name], SIDE) for name in sides],
        "references": [pictures.use(uri, REFERENCE_SIDE) for uri in pair["references"]],
        "people": [name or "" for name in pair["people"] or ()],
        "prompt": pair["prompt"] or "",
    }
    if blind:
        return told
    keys = ("part", "metric", "chosen", "rejected", "delta", "tau")
    return told | {
        "metrics": [{key: one[key] for key in keys} for one in pair["metrics"] or ()],
        "margin": pair["margin"],
        "source": pair["source"],
        "seeds": [pair[f"{name}_seed"] for name in sides],
        "methods": [pair[f"{name}_method"] for name in sides],
        "flags": list(pair["flags"] or ()),
        "reason": pair["reason"],
        "judge": pair["judge_reason"] or "",
    }


def render(content: Mapping[str, Any]) -> str:
    """A page. All that comes from data is in one JSON block, and put into the page as text only."""
    script = "\n".join(_source(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    data = json.dumps(content, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    return str(
        environment()
        .get_template("review.html.j2")
        .render(
            name=content["name"],
            policy=policy,
            style=Markup(_source("review.css")),  # noqa: S704 - ours
            script=Markup(script),  # noqa: S704 - ours
            data=Markup(data),  # noqa: S704 - JSON without `<`
        )
    )


@cache
def environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("idtool.curate.prefer"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


@cache
def _source(name: str) -> str:
    from importlib.resources import files

    return (files("idtool.curate.prefer") / "templates" / name).read_text("utf-8")


def _write(target: Path, text: str) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
