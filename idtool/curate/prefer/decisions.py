"""What reviewers decided: files that the review page saves, checked, put together by majority, applied to the pairs.

The mined pairs are never changed: whatever is applied, and however often, is applied to them.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from idtool.curate.prefer import table
from idtool.engine.operator import REJECTED
from idtool.engine.table import Table, TableWriter, file_writer
from idtool.errors import QualityError, UsageError
from idtool.evaluate.charis.agreement import agreement
from idtool.manifest_folder import write_json
from idtool.run import Run

FORMAT = 1
Vote = Literal["chosen", "rejected", "tie", "defect", "skip"]
RANKS: Mapping[str, int] = {"rejected": -1, "tie": 0, "chosen": 1}
"""Votes as ranks, for the agreement beyond chance; a defect and a pass are none."""
FOLDER = "review"


class Decisions(BaseModel):
    """One file of the review page."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal[1]
    kind: Literal["idtool-review"]
    run: str
    """Hash of the pairs that were shown."""
    reviewer: str = ""
    blind: bool = False
    made: str = ""
    decisions: dict[str, Vote]
    """Pair -> what was said of it. `chosen` and `rejected`: that one is the better; `tie`: neither; `defect`: the pair
    is of no use; `skip`: no opinion."""


@dataclass(frozen=True)
class Verdict:
    """What the votes on one pair come to."""

    outcome: Literal["kept", "swapped", "dropped"]
    reason: str
    """Machine-readable: `review.chosen`, `review.rejected`, `review.tie`, `review.defect`, `review.split`."""
    text: str
    """How the votes fell, in words."""
    share: float
    """Of the votes that the outcome rests on."""


def read(path: Path) -> Decisions:
    """A decisions file. UsageError for anything else."""
    try:
        return Decisions.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.", "Check the path.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{path} holds no decisions: {where}: {first['msg']}.", "Save it with the page again."
        ) from error
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}.", "Give the file that the review page saved.") from error


def together(run: Run, files: Mapping[str, Decisions]) -> dict[str, dict[str, Vote]]:
    """Reviewer -> pair -> vote. `files`: by path. Two files of one reviewer are one, the later word counting.

    UsageError for files of another set of pairs, and for pairs that the run does not have.
    """
    known = {pair for batch in table.mined(run).batches(["id"], 65_536) for pair in batch["id"].to_pylist()}
    found: dict[str, dict[str, Vote]] = {}
    for path, one in sorted(files.items(), key=lambda item: item[1].made):
        if one.run != run.manifest["pairs_hash"]:
            raise UsageError(
                f"{path} was made on other pairs ({one.run}, not {run.manifest['pairs_hash']}).",
                "Give the run that the page was written from.",
            )
        strange = [pair for pair in one.decisions if pair not in known]
        if strange:
            raise UsageError(f"{path} decides on pair {strange[0]!r}, which the run does not have.", "Is it damaged?")
        found.setdefault(one.reviewer.strip() or Path(path).stem, {}).update(one.decisions)
    return found


def settle(votes: Sequence[Vote]) -> Verdict | None:
    """More than half of the votes decide; passes are no votes. None where there is no vote."""
    given = [vote for vote in votes if vote != "skip"]
    if not given:
        return None
    counts = Counter(given)
    text = ", ".join(f"{counts[vote]} {vote}" for vote in sorted(counts, key=lambda vote: (-counts[vote], vote)))
    winner, count = max(counts.items(), key=lambda item: item[1])
    share = count / len(given)
    if 2 * count <= len(given):
        return Verdict("dropped", "review.split", text, share)
    outcome: dict[str, Literal["kept", "swapped"]] = {"chosen": "kept", "rejected": "swapped"}
    return Verdict(outcome.get(winner, "dropped"), f"review.{winner}", text, share)


def agreements(votes: Mapping[str, Mapping[str, Vote]]) -> dict[str, Any]:
    """How far reviewers agree on the pairs that several of them decided: the share of equal pairs of votes (mean of
    P_i, Fleiss 1971), and Krippendorff's alpha of rejected < tie < chosen, which takes chance out."""
    shared: dict[str, list[Vote]] = {}
    for said in votes.values():
        for pair, vote in said.items():
            if vote != "skip":
                shared.setdefault(pair, []).append(vote)
    several = {pair: given for pair, given in shared.items() if len(given) > 1}
    if not several:
        return {"pairs": 0, "equal": None, "alpha": None}
    equal = [
        sum(n * (n - 1) for n in Counter(given).values()) / (len(given) * (len(given) - 1))
        for given in several.values()
    ]
    pairs = sorted(several)
    ranks = np.array([[RANKS.get(said.get(pair, ""), np.nan) for pair in pairs] for said in votes.values()], np.float64)
    return {"pairs": len(several), "equal": float(np.mean(equal)), "alpha": agreement(ranks)}


def apply(path: Path, files: Sequence[Path], *, swap: bool = True) -> dict[str, Any]:
    """Apply the decisions in `files`, and none from before, to the mined pairs of the run `path`; returns a summary.

    A pair is kept or dropped, or its sides are swapped where the rejected image was preferred (without `swap`: it is
    dropped). Pairs that nobody decided stay, with a null decision. UsageError for files that do not fit; QualityError
    when no pair is left.
    """
    with table.open_run(path) as run:
        read_files = {str(file): read(file) for file in files}
        votes = together(run, read_files)
        verdicts = _verdicts(votes)
        counts = _write(run, verdicts, len(votes), swap)
        _keep_files(run, files)
        entry = {
            "index": table.REVIEWED[0],
            "name": table.REVIEWED[1],
            "kind": table.REVIEWED[1],
            "state": "done",
            **counts,
            "reviewers": {name: len(said) for name, said in sorted(votes.items())},
            "agreement": agreements(votes),
            "swap": swap,
        }
        write_json(run.step_dir(*table.REVIEWED) / "votes.json", votes)
        run.save(steps=[run.steps[0], entry])
        table.publish(run, Table(run.step_dir(*table.REVIEWED) / "table"))
    result = {
        "run": str(run.path),
        **{key: entry[key] for key in entry if key not in ("index", "name", "kind", "state")},
    }
    if not counts["kept"]:
        error = QualityError("The review leaves no pair.", f"{run.path / 'rejects' / '01-review.parquet'} says why.")
        error.details = result
        raise error
    return result


def _verdicts(votes: Mapping[str, Mapping[str, Vote]]) -> dict[str, Verdict]:
    by_pair: dict[str, list[Vote]] = {}
    for said in votes.values():
        for pair, vote in said.items():
            by_pair.setdefault(pair, []).append(vote)
    settled = {pair: settle(given) for pair, given in by_pair.items()}
    return {pair: one for pair, one in settled.items() if one is not None}


def _write(run: Run, verdicts: Mapping[str, Verdict], reviewers: int, swap: bool) -> dict[str, Any]:
    target = run.step_dir(*table.REVIEWED) / "table"
    target.parent.mkdir(parents=True, exist_ok=True)
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    rows_in = 0
    with ExitStack() as stack:
        kept = stack.enter_context(TableWriter(target, table.SCHEMA))
        lost = stack.enter_context(file_writer(run.path / "rejects" / "01-review.parquet", table.REJECTS))
        dropped = table.Buffer(lost, table.REJECTS)
        for batch in table.mined(run).batches(rows=table.ROWS):
            rows = []
            for row in batch.to_pylist():
                rows_in += 1
                verdict = verdicts.get(row["id"])
                if verdict is None:
                    outcomes["undecided"] += 1
                    rows.append(row)
                elif verdict.outcome == "dropped" or (verdict.outcome == "swapped" and not swap):
                    outcomes["dropped"] += 1
                    reasons[verdict.reason] += 1
                    dropped.add(_reject(row, verdict))
                else:
                    outcomes[verdict.outcome] += 1
                    row = table.swapped(row) if verdict.outcome == "swapped" else row
                    rows.append({**row, "decision": verdict.outcome, "decision_reason": verdict.text})
            if rows:
                kept.write(pa.Table.from_pylist(rows, table.SCHEMA))
        dropped.flush()
    return {
        "rows_in": rows_in,
        "kept": rows_in - outcomes["dropped"],
        "rejected": outcomes["dropped"],
        "errors": 0,
        "reasons": dict(reasons.most_common()),
        "decisions": {name: outcomes[name] for name in ("kept", "swapped", "dropped", "undecided")},
    }


def _reject(row: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    told = {name: row.get(name) for name in table.REJECTS.names}
    return told | {
        "status": REJECTED,
        "reason": verdict.reason,
        "value": verdict.share,
        "threshold": "> 0.5 of the votes for one image",
        "message": verdict.text,
        "step": table.REVIEWED[1],
    }


def _keep_files(run: Run, files: Sequence[Path]) -> None:
    """Copies of what was applied, in place of what was applied before."""
    folder = run.path / FOLDER / "decisions"
    inside = [file for file in files if file.resolve().parent == folder.resolve()]
    for old in folder.glob("*.json"):
        if old.resolve() not in {file.resolve() for file in inside}:
            old.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = {file.name for file in inside}
    for file in files:
        if file in inside:
            continue
        name, number = file.name, 1
        while name in taken:
            number += 1
            name = f"{file.stem}-{number}{file.suffix}"
        taken.add(name)
        shutil.copyfile(file, folder / name)
