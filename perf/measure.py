"""The `measure` step against the bare work inside it: one decode per image plus the networks' forwards.

The forwards are recorded, not imagined: in one untimed pass every call of ONNX Runtime, LiteRT and OpenVINO that the
step makes is kept with its prepared input. `bare` then decodes each file once and replays exactly those calls in a
plain loop, in the same process, on the same sessions. `operator` is the step's operator on shards of 64 rows through
the local executor with one worker; `step` adds what a run adds: reading the table, commits, compaction.
"""

from __future__ import annotations

from harness import Cost, arguments, clock, fixtures, list_images, median, packaged_env, pin_threads, save, show

pin_threads()

import tempfile  # noqa: E402
import time  # noqa: E402
from collections import Counter, defaultdict  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

PROMISE = 1.15
RECIPE = ("pixels", "faces", "identity", "landmarks", "expression", "quality", "nsfw")
"""What the recipe `dmid` measures under `offline`, the cheap pixels included."""


@dataclass
class Call:
    """One forward of a network: whose measure it belongs to, and how to do it again."""

    measure: str
    again: Callable[[], Any]


class Recorder:
    """Listens to the inference engines while the step runs once."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.measure = ""
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Recorder:
        import onnxruntime as ort
        from ai_edge_litert.interpreter import Interpreter

        inputs: dict[int, dict[int, Any]] = defaultdict(dict)

        def run(original: Any, session: Any, outputs: Any, feeds: Any, *rest: Any) -> Any:
            kept = {name: np.array(value) for name, value in feeds.items()}
            self.calls.append(Call(self.measure, lambda: original(session, outputs, kept, *rest)))
            return original(session, outputs, feeds, *rest)

        def set_tensor(original: Any, interpreter: Any, index: int, value: Any) -> Any:
            inputs[id(interpreter)][index] = np.array(value)
            return original(interpreter, index, value)

        def invoke(original: Any, interpreter: Any) -> Any:
            kept = dict(inputs[id(interpreter)])

            def again() -> None:
                for index, value in kept.items():
                    interpreter.set_tensor(index, value)
                original(interpreter)

            self.calls.append(Call(self.measure, again))
            return original(interpreter)

        self._patch(ort.InferenceSession, "run", run)
        self._patch(Interpreter, "set_tensor", set_tensor)
        self._patch(Interpreter, "invoke", invoke)
        self._openvino()
        return self

    def __exit__(self, *_: object) -> None:
        for undo in self._undo:
            undo()

    def _openvino(self) -> None:
        try:
            from openvino import CompiledModel
        except ImportError:
            return

        def call(original: Any, model: Any, inputs: Any = None, *args: Any, **options: Any) -> Any:
            kept = _copied(inputs)
            self.calls.append(Call(self.measure, lambda: original(model, kept, *args, **options)))
            return original(model, inputs, *args, **options)

        self._patch(CompiledModel, "__call__", call)

    def _patch(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        setattr(owner, name, lambda self, *args, **options: wrapper(original, self, *args, **options))
        self._undo.append(lambda: setattr(owner, name, original))


def _copied(inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return {name: np.array(value) for name, value in inputs.items()}
    return [np.array(value) for value in inputs] if isinstance(inputs, list | tuple) else np.array(inputs)


class Timed:
    """A measure that tells the recorder its name and counts its own processor time."""

    def __init__(self, measure: Any, recorder: Recorder | None, spent: Counter[str]) -> None:
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


def decode(path: Path) -> Any:
    """The least that turns a file into pixels."""
    import cv2

    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise SystemExit(f"OpenCV cannot decode {path.name}: leave it out")
    return image


def rows_of(paths: Sequence[Path]) -> pa.Table:
    from idtool.media import images

    rows = []
    for number, path in enumerate(paths):
        info = images.probe(path)
        name = f"{number:032x}"
        rows.append({"id": name, "media": str(path.absolute()), "width": info.width, "height": info.height})
    ints = {name: pa.int32() for name in ("width", "height")}
    return pa.Table.from_pylist(rows, schema=pa.schema({"id": pa.string(), "media": pa.string(), **ints}))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--images", type=Path, default=fixtures(), help="folder of images (default: the fixtures)")
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measures", nargs="+", default=list(RECIPE))
    options = parser.parse_args()
    if options.images is None:
        raise SystemExit("give --images FOLDER")

    import cv2

    from idtool.curate.measure import MeasureSettings, MeasureStep
    from idtool.engine.executor import Program, Shard
    from idtool.engine.local import LocalExecutor
    from idtool.engine.operator import Context

    cv2.setNumThreads(1)
    paths = list_images(options.images, options.count)
    table = rows_of(paths)
    step = MeasureStep(MeasureSettings(measures=tuple(options.measures)), packaged_env())
    (operator,) = step.operators()
    folder = tempfile.TemporaryDirectory(prefix="idtool-perf-")
    context = Context(folder.name)
    with clock() as start:
        operator.setup(context)
    operator(table.slice(0, 2))  # first calls allocate

    spent: Counter[str] = Counter()
    plain = operator.measures  # type: ignore[attr-defined]
    with Recorder() as recorder:
        operator.measures = [Timed(measure, recorder, Counter()) for measure in plain]  # type: ignore[attr-defined]
        operator(table)
    operator.measures = [Timed(measure, None, spent) for measure in plain]  # type: ignore[attr-defined]
    operator(table)
    operator.measures = plain  # type: ignore[attr-defined]

    forwards: Counter[str] = Counter()

    def bare() -> None:
        for path in paths:
            begin = time.thread_time()
            decode(path)
            forwards["decode"] += time.thread_time() - begin
        for call in recorder.calls:
            begin = time.thread_time()
            call.again()
            forwards[call.measure] += time.thread_time() - begin

    def through_executor() -> None:
        shards = (Shard(str(at), table.slice(at, step.shard_rows)) for at in range(0, table.num_rows, step.shard_rows))
        for _shard, result in LocalExecutor(1).run(_Ready((operator,), context), shards, print):
            assert set(result["status"].to_pylist()) <= {"kept", "rejected"}

    class _Ready(Program):
        """The operator is set up already: loading networks is not what is measured."""

        def setup(self) -> None:
            """Nothing."""

        def __deepcopy__(self, memo: Any) -> Any:
            return self

    number = 0

    def whole_step() -> None:
        from harness import run_steps

        from idtool.engine.operator import OUTCOME
        from idtool.engine.table import write_table

        nonlocal number
        number += 1
        run = Path(folder.name) / f"run-{number}"
        kept = table.append_column("status", pa.repeat("kept", table.num_rows))
        schema = pa.schema([*table.schema, *OUTCOME])
        full = pa.table([kept[f.name] if f.name in kept.column_names else pa.nulls(len(kept), f.type) for f in schema],
                        schema=schema)
        sources = write_table(Path(folder.name) / f"sources-{number}", [full], schema)
        run_steps(run, sources, [{"step": "measure", "measures": options.measures}])

    ways = {"bare": bare, "operator": through_executor, "step": whole_step}
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            with clock() as cost:
                way()
            costs[name].append(cost)

    count, base = len(paths), median([cost.cpu for cost in costs["bare"]])
    base_wall = median([cost.wall for cost in costs["bare"]])
    summary = []
    for name, values in costs.items():
        cpu, wall = median([v.cpu for v in values]), median([v.wall for v in values])
        summary.append({
            "way": name, "cpu s": cpu, "wall s": wall, "images/cpu s": count / cpu, "images/s": count / wall,
            "cpu ratio": cpu / base, "wall ratio": wall / base_wall,
        })
    parts = []
    for name in ("decode", *[measure.name for measure in plain]):
        inside, own = forwards[name] / options.repeats, spent.get(name)
        parts.append({
            "part": name, "bare ms/image": 1000 * inside / count,
            "step ms/image": None if own is None else 1000 * own / count,
            "added ms/image": None if own is None else 1000 * (own - inside) / count,
        })
    show(f"{count} images, setup {start.cpu:.1f} cpu s; promise: wall of the step <= {PROMISE} x bare", summary)
    show("per image, processor time of the calling thread", parts)
    save(options.json, {"images": count, "setup": vars(start), "promise": PROMISE, "summary": summary, "parts": parts,
                        "runs": {name: [vars(v) for v in values] for name, values in costs.items()}})
    folder.cleanup()


if __name__ == "__main__":
    main()
