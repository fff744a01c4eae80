"""Peak memory of the engine against the number of rows: ingest, measure pixels, gates, dedup on tiny JPEGs.

Each size runs in a fresh process, with one worker. Peaks are resident memory as the system counts it, afresh for each
step. The slope is that of a straight line through all sizes: what one more row costs.
"""

from __future__ import annotations

from harness import arguments, clock, list_sources, machine, peak_rss, pin_threads, run_steps, save, show

pin_threads()

import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

SIDE = 64
RECIPE: list[dict[str, Any]] = [
    {"step": "ingest"},
    {"step": "gate", "resolution": {"short_side": {"min": SIDE}}},
    {"step": "measure", "measures": ["pixels"]},
    {"step": "gate", "exposure": {"brightness": {"min": 0.08, "max": 0.92}, "clipped": {"max": 0.4}}},
    {"step": "dedup", "perceptual": {"max_distance": 3}},
]


def make_images(folder: Path, count: int) -> None:
    """JPEGs of 64 px, every one with pixels of its own; every 25th repeats its neighbour's bytes."""
    import cv2

    random = np.random.default_rng(0)
    data = b""
    for number in range(count):
        if number % 25 != 24:
            soft = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            image = cv2.resize(soft, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            data = cv2.imencode(".jpg", image)[1].tobytes()
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def one(rows: int, folder: Path) -> dict[str, Any]:
    """In a process of its own: run the recipe on the first `rows` images."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    with clock() as cost:
        sources = list_sources(folder / f"sources-{rows}", folder / f"images-{rows}")
        listing = peak_rss()
        table, watch = run_steps(folder / f"run-{rows}", sources, RECIPE)
    peaks = {"list": listing, **watch.peaks}
    return {
        "rows": rows,
        "kept": table.rows,
        "cpu s": round(cost.cpu, 1),
        "wall s": round(cost.wall, 1),
        **{f"{name} MB": value / 1e6 for name, value in peaks.items()},
        "peak MB": max(peaks.values()) / 1e6,
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    parser.add_argument("--one", type=int, help="internal: one size, in this process")
    parser.add_argument("--folder", type=Path, help="internal: where the images are")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.folder)))
        return
    about = machine()
    results = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="idtool-perf-") as temporary:
            make_images(Path(temporary) / f"images-{rows}", rows)
            command = [sys.executable, __file__, "--one", str(rows), "--folder", temporary]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    slopes = {}
    if len(results) > 1:
        names = [name for name in results[0] if name.endswith(" MB")]
        sizes = [result["rows"] for result in results]
        slopes = {name: 1e6 * float(np.polyfit(sizes, [result[name] for result in results], 1)[0]) for name in names}
    columns = [
        {
            "step": name,
            **{f"{r['rows']:,} rows": r[name] for r in results},
            **({"bytes/row": slopes[name]} if slopes else {}),
        }
        for name in results[0]
        if name.endswith(" MB")
    ]
    show("peak resident memory, MB", columns)
    show("time", [{key: r[key] for key in ("rows", "kept", "cpu s", "wall s")} for r in results])
    save(options.json, {"before": about, "results": results, "bytes_per_row": slopes})


if __name__ == "__main__":
    main()
