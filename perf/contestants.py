"""One contestant of `peers.py`, run under its own Python: `contestants.py NAME IMAGES OUT RESULT`.

Each does what its documentation shows for one folder of images, with one worker, and leaves Parquet. Importing is
clocked apart from working: with few images some contestants mostly import.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import clock, list_images, pin_threads

pin_threads()
os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""})

Work = Callable[[Path, Path], dict[str, Any]]


def idtool() -> Work:
    """ingest (type, size, content hash), pixels (sharpness, exposure, perceptual hash), dedup; three tables."""
    import cv2
    import pyarrow as pa
    from harness import list_sources, packaged_env, run_steps

    cv2.setNumThreads(1)
    pa.set_cpu_count(1)

    def work(images: Path, out: Path) -> dict[str, Any]:
        sources = list_sources(out / "sources", images)
        recipe: list[dict[str, Any]] = [
            {"step": "ingest"},
            {"step": "measure", "measures": ["pixels"]},
            {"step": "dedup", "perceptual": {"max_distance": 3, "mirrored": False}},
        ]
        table, watch = run_steps(out / "run", sources, recipe, env=packaged_env())
        exact = watch.entries["ingest"]["reasons"].get("duplicate.exact", 0)
        near = watch.entries["dedup"]["reasons"].get("duplicate.perceptual", 0)
        return {"rows": table.rows, "duplicates": exact + near}

    return work


def cleanvision(issues: list[str] | None) -> Callable[[], Work]:
    """`find_issues`, all default checks or only those that are comparable."""

    def start() -> Work:
        from cleanvision import Imagelab  # type: ignore[import-not-found,unused-ignore]

        def work(images: Path, out: Path) -> dict[str, Any]:
            lab = Imagelab(data_path=str(images))
            lab.find_issues(issues and {name: {} for name in issues}, n_jobs=1, verbose=False)
            out.mkdir()
            lab.issues.to_parquet(out / "issues.parquet")
            copies = [lab.info[name]["sets"] for name in ("exact_duplicates", "near_duplicates")]
            return {"rows": len(lab.issues), "duplicates": sum(len(group) - 1 for sets in copies for group in sets)}

        return work

    return start


def data_juicer() -> Work:
    """Shape, bytes and ratio filters and image deduplication through its executor. It has no sharpness or exposure."""
    held = _complete_torchvision()
    from data_juicer.config import init_configs  # type: ignore[import-not-found,unused-ignore]
    from data_juicer.core import DefaultExecutor  # type: ignore[import-not-found,unused-ignore]

    def work(images: Path, out: Path) -> dict[str, Any]:
        out.mkdir()
        listing = out / "images.jsonl"
        rows = [{"text": "", "images": [str(path.absolute())]} for path in list_images(images)]
        listing.write_text("".join(json.dumps(row) + "\n" for row in rows))
        export = out / "export.parquet"
        config = {
            "project_name": "perf",
            "dataset_path": str(listing),
            "export_path": str(export),
            "np": 1,
            "use_cache": False,
            "open_monitor": False,
            "process": [
                {"image_shape_filter": {"min_width": 64, "min_height": 64, "num_proc": 1}},
                {"image_size_filter": {"min_size": "1kb", "num_proc": 1}},
                {"image_aspect_ratio_filter": {"min_ratio": 0.2, "max_ratio": 5.0, "num_proc": 1}},
                {"image_deduplicator": {"method": "phash", "num_proc": 1}},
            ],
        }
        recipe = out / "recipe.yaml"
        recipe.write_text(json.dumps(config))
        DefaultExecutor(init_configs(["--config", str(recipe)])).run()
        import pyarrow.parquet as pq

        left = pq.read_metadata(export).num_rows
        del held[:]
        return {"rows": left, "duplicates": len(rows) - left}

    return work


def _complete_torchvision() -> list[Any]:
    """Beside a CPU build of torch, the index's torchvision lacks its native part and its import fails on two names,
    which nothing here calls: declare them. Returns what must stay alive."""
    from importlib.metadata import version

    import torch  # type: ignore[import-not-found,unused-ignore]

    if "+cpu" not in version("torch") or "+cpu" in version("torchvision"):
        return []
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return [library]


COMPARABLE = ["odd_size", "light", "dark", "blurry", "exact_duplicates", "near_duplicates"]

CONTESTANTS: dict[str, Callable[[], Work]] = {
    "idtool": idtool,
    "cleanvision": cleanvision(COMPARABLE),
    "cleanvision-all": cleanvision(None),
    "data-juicer": data_juicer,
}


def main() -> None:
    name, images, out, result = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    with clock() as importing:
        work = CONTESTANTS[name]()
    with clock() as working:
        found = work(images, out)
    result.write_text(json.dumps({"import": vars(importing), "work": vars(working), **found}))


if __name__ == "__main__":
    main()
