"""idtool's cheap steps against cleanvision and data-juicer on the same 512 px JPEGs.

Everybody decodes, looks at size, finds perceptual near-duplicates and writes Parquet, with one worker, each in a fresh
process of its own environment; runs alternate. idtool and cleanvision also look at sharpness and exposure, data-juicer
does not. idtool besides hashes every file, and commits three tables, flushed to disk.
"""

from __future__ import annotations

from harness import arguments, fixtures, list_images, machine, median, pin_threads, save, show

pin_threads()

import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

SIDE = 512
FEW = 8
"""Images of the runs that show what starting costs."""
EXACT_EVERY, NEAR_EVERY = 50, 20
"""Every 50th image is a byte-for-byte copy of an earlier one, every 20th a re-encoded one."""


def make_images(folder: Path, count: int, photos: Path | None) -> None:
    """`count` JPEGs of 512 px: random crops of photos, or soft random pictures with noise where there are none."""
    import cv2

    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    opened: list[Any] = [cv2.imread(str(path)) for path in list_images(photos)] if photos else []
    sources = [image for image in opened if image is not None and min(image.shape[:2]) >= 256]
    for number in range(count):
        target = folder / f"{number:05d}.jpg"
        if number % EXACT_EVERY == EXACT_EVERY - 1:
            shutil.copyfile(folder / f"{number - EXACT_EVERY // 2:05d}.jpg", target)
            continue
        if number % NEAR_EVERY == NEAR_EVERY - 1:
            image: Any = cv2.imread(str(folder / f"{number - NEAR_EVERY // 2:05d}.jpg"))
            cv2.imwrite(str(target), image, [cv2.IMWRITE_JPEG_QUALITY, 70])
            continue
        if sources:
            image = sources[random.integers(len(sources))]
            side = int(random.integers(min(image.shape[:2]) * 2 // 3, min(image.shape[:2])))
            top, left = (int(random.integers(0, extent - side + 1)) for extent in image.shape[:2])
            image = cv2.resize(image[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        else:
            coarse = random.integers(0, 256, (12, 12, 3)).astype(np.float32)
            soft = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            image = np.clip(soft + random.normal(0, 6, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(target), image, [cv2.IMWRITE_JPEG_QUALITY, 92])


def contest(name: str, python: str, images: Path, scratch: Path) -> dict[str, Any]:
    """One run in a fresh process: its own account, and the whole process as the system saw it."""
    result, log = scratch / "result.json", scratch / "log.txt"
    script = Path(__file__).with_name("contestants.py")
    begin = time.perf_counter()
    with open(log, "w") as sink:
        process = subprocess.Popen(
            [python, str(script), name, str(images), str(scratch / "out"), str(result)],
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=scratch,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"{name} failed:\n{log.read_text()[-3000:]}")
    return {"whole": {"cpu": usage.ru_utime + usage.ru_stime, "wall": wall}, **json.loads(result.read_text())}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--peer-python", help="Python of the peers' environment (README); without it idtool alone")
    parser.add_argument("--images", type=Path, default=fixtures(), help="photos to cut the test images from")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["idtool", "cleanvision", "cleanvision-all", "data-juicer"])
    options = parser.parse_args()
    pythons = {name: sys.executable if name == "idtool" else options.peer_python for name in options.only}
    pythons = {name: python for name, python in pythons.items() if python}
    about = machine()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
    starts: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory(prefix="idtool-perf-") as temporary:
        images, few = Path(temporary) / "images", Path(temporary) / "few"
        make_images(images, options.count, options.images)
        few.mkdir()
        for path in list_images(images)[:FEW]:
            shutil.copyfile(path, few / path.name)
        size = sum(path.stat().st_size for path in images.iterdir()) / options.count
        for repeat in range(options.repeats):
            for name, python in pythons.items():
                for kind, folder, kept in (("few", few, starts), ("all", images, runs)):
                    scratch = Path(temporary) / f"{name}-{repeat}-{kind}"
                    scratch.mkdir()
                    kept[name].append(contest(name, python, folder, scratch))
                    shutil.rmtree(scratch)

    def whole(kept: dict[str, list[dict[str, Any]]], name: str, unit: str = "cpu") -> float:
        return median([run["whole"][unit] for run in kept[name]])

    rows: list[dict[str, Any]] = []
    for name in pythons:
        each = (whole(runs, name) - whole(starts, name)) / (options.count - FEW)
        rows.append(
            {
                "contestant": name,
                "cpu s": whole(runs, name),
                "wall s": whole(runs, name, "wall"),
                "start cpu s": whole(starts, name),
                "cpu ms/image": 1000 * each,
                "images/cpu s": 1 / each,
                "duplicates": runs[name][0]["duplicates"],
            }
        )
    for ours in [row for row in rows if row["contestant"] == "idtool"]:
        for row in rows:
            row |= {name + " x": row[name] / ours[name] for name in ("cpu s", "cpu ms/image")}
    title = f"{options.count} JPEGs of {SIDE} px, {size / 1000:.0f} kB each; medians of {options.repeats}"
    show(f"{title}; start: the same with {FEW} images", rows)
    result = {"count": options.count, "mean_bytes": size, "before": about, "rows": rows}
    save(options.json, {**result, "runs": runs, "starts": starts})


if __name__ == "__main__":
    main()
