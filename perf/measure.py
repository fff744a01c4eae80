"""The `measure` step against the bare work inside it: one decode per image plus the networks' forwards.

The forwards are recorded, not imagined: in one untimed pass every call of ONNX Runtime, LiteRT and OpenVINO that the
step makes is kept with its prepared input. `bare` then decodes each file once and replays exactly those calls in a
plain loop, in the same process, on the same sessions. `operator` is the step's operator on shards of 64 rows through
the local executor with one worker; `step` adds what a run adds: reading the table, commits, compaction.
"""

from __future__ import annotations

from harness import (
    Cost,
    arguments,
    clock,
    fixtures,
    list_images,
    machine,
    median,
    packaged_env,
    pin_threads,
    run_steps,
    save,
    show,
)

pin_threads()

import tempfile  # noqa: E402
import time  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from recorder import Recorder  # noqa: E402

from idtool.engine.executor import Program, Shard  # noqa: E402

PROMISE = 1.15
RECIPE = ("pixels", "faces", "identity", "landmarks", "expression", "quality", "nsfw")
"""What recipe `dmid` measures under `offline`."""


class Timed:
    """A measure that tells the recorder its name, or counts the processor time of its thread."""

    def __init__(self, measure: Any, recorder: Recorder | None, spent: dict[str, float]) -> None:
        self._measure, self._recorder, self._spent = measure, recorder, spent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._measure, name)

    def __call__(self, items: Sequence[Any]) -> Any:
        if self._recorder:
            self._recorder.measure = self._measure.name
        begin = time.thread_time()
        try:
            return self._measure(items)
        finally:
            self._spent[self._measure.name] += time.thread_time() - begin


class Ready(Program):
    """Its operators are set up already: loading networks is not what is measured."""

    def setup(self) -> None:
        """Nothing."""

    def __deepcopy__(self, memo: Any) -> Ready:
        return self


class Bench:
    """The step on some images, in three ways."""

    def __init__(self, paths: Sequence[Path], measures: Sequence[str], folder: Path) -> None:
        from idtool.engine.operator import Context
        from idtool.evaluate.measure import MeasureSettings, MeasureStep

        self.paths, self.names, self.folder = paths, list(measures), folder
        self.table = _rows(paths)
        self.env = packaged_env()
        step = MeasureStep(MeasureSettings(measures=tuple(measures)), self.env)
        self.shard_rows = step.shard_rows
        operators: list[Any] = list(step.operators())
        self.operator = operators[0]
        self.context = Context(str(folder))
        self.forwards: dict[str, float] = defaultdict(float)
        with clock() as self.setup:
            self.operator.setup(self.context)
        self.operator(self.table.slice(0, 2))  # first calls allocate
        self.made = [measure.name for measure in self.operator.measures]
        with Recorder() as recorder:
            self._listened(recorder)
        self.calls = recorder.calls
        self.inside = self._listened(None)
        self._runs = 0

    def _listened(self, recorder: Recorder | None) -> dict[str, float]:
        spent: dict[str, float] = defaultdict(float)
        plain = self.operator.measures
        self.operator.measures = [Timed(measure, recorder, spent) for measure in plain]
        self.operator(self.table)
        self.operator.measures = plain
        return spent

    def bare(self) -> None:
        """One decode per image, and the recorded forwards."""
        for path in self.paths:
            begin = time.thread_time()
            _decode(path)
            self.forwards["decode"] += time.thread_time() - begin
        for call in self.calls:
            begin = time.thread_time()
            call.again()
            self.forwards[call.measure] += time.thread_time() - begin

    def through_executor(self) -> None:
        from idtool.engine.local import LocalExecutor

        size = self.shard_rows
        shards = (Shard(str(at), self.table.slice(at, size)) for at in range(0, self.table.num_rows, size))
        for _, result in LocalExecutor(1).run(Ready((self.operator,), self.context), shards, print):
            assert "error" not in result["status"].to_pylist()

    def whole_step(self) -> None:
        from idtool.engine.operator import OUTCOME
        from idtool.engine.table import write_table

        self._runs += 1
        count = self.table.num_rows
        outcome = [pa.repeat("kept", count), *[pa.nulls(count, field.type) for field in list(OUTCOME)[1:]]]
        schema = pa.schema([*self.table.schema, *OUTCOME])
        full = pa.table([*self.table.columns, *outcome], schema=schema)
        sources = write_table(self.folder / f"sources-{self._runs}", [full], schema)
        recipe = [{"step": "measure", "measures": self.names}]
        run_steps(self.folder / f"run-{self._runs}", sources, recipe, env=self.env)


def _decode(path: Path) -> None:
    """The least that turns a file into pixels."""
    import cv2

    if cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB) is None:
        raise SystemExit(f"OpenCV cannot decode {path.name}: leave it out")


def _scaled(paths: Sequence[Path], side: int, folder: Path) -> list[Path]:
    import cv2

    folder.mkdir()
    targets = [folder / f"{number:05d}.jpg" for number in range(len(paths))]
    for path, target in zip(paths, targets, strict=True):
        image: Any = cv2.imread(str(path))
        scale = side / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(target), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return targets


def _rows(paths: Sequence[Path]) -> pa.Table:
    from idtool.media import images

    rows = []
    for number, path in enumerate(paths):
        info = images.probe(path)
        rows.append({"id": f"{number:032x}", "media": str(path.absolute()), "width": info.width, "height": info.height})
    kinds = {"id": pa.string(), "media": pa.string(), "width": pa.int32(), "height": pa.int32()}
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))


def _summary(costs: dict[str, list[Cost]], count: int) -> list[dict[str, Any]]:
    middle = {name: (median([c.cpu for c in each]), median([c.wall for c in each])) for name, each in costs.items()}
    return [
        {
            "way": name,
            "cpu s": cpu,
            "wall s": wall,
            "images/cpu s": count / cpu,
            "images/s": count / wall,
            "cpu x bare": cpu / middle["bare"][0],
            "wall x bare": wall / middle["bare"][1],
        }
        for name, (cpu, wall) in middle.items()
    ]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--images", type=Path, default=fixtures(), help="folder of images (default: the fixtures)")
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--side", type=int, help="first scale every image to this short side, as a JPEG")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measures", nargs="+", default=list(RECIPE))
    options = parser.parse_args()
    if options.images is None:
        raise SystemExit("give --images FOLDER")
    about = machine()
    paths = list_images(options.images, options.count)
    with tempfile.TemporaryDirectory(prefix="idtool-perf-") as folder:
        if options.side:
            paths = _scaled(paths, options.side, Path(folder) / "scaled")
        bench = Bench(paths, options.measures, Path(folder))
        ways: dict[str, Callable[[], None]] = {
            "bare": bench.bare,
            "operator": bench.through_executor,
            "step": bench.whole_step,
        }
        costs: dict[str, list[Cost]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, way in ways.items():
                with clock() as cost:
                    way()
                costs[name].append(cost)
    count = len(paths)
    parts = []
    for name in ("decode", *bench.made):
        bare, own = bench.forwards[name] / options.repeats, bench.inside.get(name, 0.0)
        row = {"part": name, "bare ms/image": 1000 * bare / count}
        if name in bench.inside:
            row |= {"step ms/image": 1000 * own / count, "added ms/image": 1000 * (own - bare) / count}
        parts.append(row)
    summary = _summary(costs, count)
    size = f" scaled to a short side of {options.side} px" if options.side else ""
    show(f"{count} images{size}; promise: wall of the step at most {PROMISE} x bare", summary)
    show("processor time of the calling thread", parts)
    runs = {name: [vars(cost) for cost in each] for name, each in costs.items()}
    result = {"images": count, "side": options.side, "before": about, "setup": vars(bench.setup), "promise": PROMISE}
    save(options.json, {**result, "summary": summary, "parts": parts, "runs": runs})


if __name__ == "__main__":
    main()
