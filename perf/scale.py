"""A run from files to a data set at growing numbers of rows: is memory flat, and what does a row cost?

Pictures are JPEGs of 64 px with pixels of their own, 20 a person, named by a manifest. In place of networks a step
draws what they would measure (embedding, aligned face, pose, expression) from the person and the row, so that pairs
have the similarities of real photos and the engine alone is clocked: ingest, gates, measure `pixels`, dedup, identify
by column, pair, caption by template, export to Parquet. Each size runs in a fresh process with one worker; peaks are
of anonymous memory (what no file stands behind) and of all resident memory, afresh for each step. `bytes/row` is the
slope of the former from each size to the next.
"""

from __future__ import annotations

from harness import (
    arguments,
    clock,
    list_sources,
    machine,
    packaged_env,
    peak_rss,
    pin_threads,
    run_steps,
    save,
    show,
)

pin_threads()

import csv  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from anonymous import AnonymousWatch  # noqa: E402
from memory import RECIPE as GATES  # noqa: E402
from memory import make_images  # noqa: E402
from people import DIM, noise, unit  # noqa: E402

from idtool.curate.registry import STEPS  # noqa: E402
from idtool.engine.operator import Operator, Row, map_rows  # noqa: E402
from idtool.engine.step import RowStep  # noqa: E402
from idtool.run import Run  # noqa: E402

PER_PERSON = 20
RECIPE: list[dict[str, Any]] = [
    *GATES,
    {"step": "drawn_faces"},
    {"step": "gate", "pose": {"yaw": {"abs_max": 60}, "pitch": {"abs_max": 35}}},
    {"step": "identify", "by": "column", "min_images": 2},
    {
        "step": "pair",
        "branches": {"photos": {"similarity": {"min": 0.4, "max": 0.98}}},
        "difference": {"yaw": 6, "pitch": 6, "expression": 0.25},
        "per_identity": 4,
    },
    {"step": "caption", "by": "template"},
    {"step": "export"},
]


class DrawFaces(Operator):
    """What networks would say of the only face, drawn from the person and the row's id."""

    reads = ("id", "identity_label")
    writes = pa.schema(
        [
            pa.field("embedding", pa.list_(pa.float32(), DIM)),
            pa.field("face_thumb", pa.binary()),
            pa.field("yaw", pa.float32()),
            pa.field("pitch", pa.float32()),
            pa.field("expressions", pa.list_(pa.float32())),
        ]
    )

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self.draw, self.writes)

    def draw(self, row: Row) -> Row:
        centre = noise(np.random.default_rng(int(row["identity_label"])), 1)[0]
        random = np.random.default_rng(int(row["id"], 16))
        spread = np.float32(np.clip(random.normal(0.75, 0.22), 0.3, 1.5))
        return {
            "embedding": unit(centre + spread * noise(random, 1)[0]),
            "face_thumb": random.integers(0, 256, 1024, dtype=np.uint8).tobytes(),
            "yaw": random.normal(0, 20),
            "pitch": random.normal(0, 10),
            "expressions": random.dirichlet(np.full(7, 0.5)).astype(np.float32),
        }


class DrawnFaces(RowStep):
    """Runs `DrawFaces`."""

    kind = "drawn_faces"
    summary = "made-up measurements"

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return DrawFaces.reads

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return DrawFaces.writes

    def operators(self) -> list[Operator]:
        return [DrawFaces()]


STEPS.register(DrawnFaces.kind, DrawnFaces)


def make_manifest(folder: Path, count: int) -> Path:
    """The pictures and a manifest that says whom they show, 20 a person."""
    make_images(folder, count)
    path = folder / "manifest.csv"
    with open(path, "w", newline="", encoding="utf-8") as sink:
        writer = csv.writer(sink)
        writer.writerow(["path", "identity", "licence", "consent"])
        for number, image in enumerate(sorted(folder.rglob("*.jpg"))):
            writer.writerow([image.relative_to(folder), f"{number // PER_PERSON:07d}", "CC0-1.0", "yes"])
    return path


def disk(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def one(rows: int, folder: Path) -> dict[str, Any]:
    """In a process of its own: the recipe on `rows` pictures."""
    pa.set_cpu_count(1)
    run = folder / "run"
    watch = AnonymousWatch()
    with clock() as listed:
        sources = list_sources(folder / "sources", folder / "images" / "manifest.csv")
    watch.sampler.look()
    listing = {"MB": watch.sampler.peak / 1e6, "resident MB": peak_rss() / 1e6}
    # What the data card says of the run.
    Run.create(run).save(recipe="perf/scale.py", profile="offline", seed=0, inputs=["made up"])
    with clock() as cost:
        run_steps(run, sources, RECIPE, env=packaged_env(), watch=watch)
    steps = {
        name: {
            "rows in": entry["rows_in"],
            "kept": entry["kept"],
            "s": entry["seconds"],
            "MB": watch.anonymous[name] / 1e6,
            "resident MB": watch.peaks[name] / 1e6,
            "disk": disk(next((run / "steps").glob(f"*-{name}")) / "table"),
        }
        for name, entry in watch.entries.items()
    }
    first = {"rows in": rows, "kept": sources.rows, "s": listed.wall, **listing}
    steps = {"list": {**first, "disk": disk(folder / "sources")}, **steps}
    return {
        "rows": rows,
        "pairs": watch.entries["export"]["kept"],
        "cpu s": listed.cpu + cost.cpu,
        "wall s": listed.wall + cost.wall,
        "peak MB": max(step["MB"] for step in steps.values()),
        "peak resident MB": max(step["resident MB"] for step in steps.values()),
        "tables B/row": sum(step["disk"] for name, step in steps.items() if name != "list") / rows,
        "rejects B/row": disk(run / "rejects") / rows,
        "data set B/pair": disk(run / "dataset") / watch.entries["export"]["kept"],
        "pictures B/row": sum(path.stat().st_size for path in (folder / "images").rglob("*.jpg")) / rows,
        "steps": steps,
    }


def per_step(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Peaks and time of every step; slopes from each size to the next."""
    found = []
    for name, end in results[-1]["steps"].items():
        line: dict[str, Any] = {"step": name}
        for before, result in zip([None, *results], results, strict=False):
            here = result["steps"][name]["MB"]
            line[f"{result['rows']:,} rows, MB"] = here
            if before:
                grown = 1e6 * (here - before["steps"][name]["MB"])
                line[f"bytes/row to {result['rows']:,}"] = grown / (result["rows"] - before["rows"])
        line["resident MB"] = end["resident MB"]
        line |= {"ms/row in": 1e3 * end["s"] / end["rows in"], "disk B/row out": end["disk"] / max(1, end["kept"])}
        found.append(line)
    return found


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--one", type=int, help="internal: one size, in this process")
    parser.add_argument("--folder", type=Path, help="internal: where the images are")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.folder)))
        return
    about = machine()
    results = []
    for rows in sorted(options.rows):
        with tempfile.TemporaryDirectory(prefix="idtool-perf-") as temporary:
            make_manifest(Path(temporary) / "images", rows)
            command = [sys.executable, __file__, "--one", str(rows), "--folder", temporary]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{rows:,} rows done in {results[-1]['wall s']:.0f} s", flush=True)
    show("peak anonymous memory by step; resident memory, time and disk at the largest size", per_step(results))
    show("whole runs", [{key: value for key, value in r.items() if key != "steps"} for r in results])
    save(options.json, {"before": about, "results": results})


if __name__ == "__main__":
    main()
