"""What the perf scripts share: clocks, memory, images, running steps without the command line, tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from idtool.engine.step import Step
    from idtool.engine.table import Table

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def pin_threads() -> None:
    """One thread for every numeric library, now and in children. Call before numpy is imported."""
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))


def cpu_seconds() -> float:
    """User and system time of this process and of its children that ended."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


@dataclass
class Cost:
    """Seconds that a block took."""

    cpu: float = 0.0
    wall: float = 0.0


@contextmanager
def clock() -> Iterator[Cost]:
    cost = Cost()
    cpu, wall = cpu_seconds(), time.perf_counter()
    yield cost
    cost.cpu, cost.wall = cpu_seconds() - cpu, time.perf_counter() - wall


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def peak_rss() -> int:
    """Highest resident memory in bytes since the start, or since `reset_peak`."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> bool:
    """Start the peak afresh (Linux); False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def machine() -> dict[str, Any]:
    """Kind of processor, number of cores and memory; nothing that names the machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def fixtures() -> Path | None:
    """Folder of labelled photos, when this checkout has it."""
    root = Path(os.environ.get("IDTOOL_FIXTURES") or Path(__file__).parents[2] / "shared" / "fixtures")
    folder = root / "identities"
    return folder if folder.is_dir() else None


def list_images(folder: Path, limit: int | None = None) -> list[Path]:
    """Image files below `folder` in name order; evenly spread over it when limited."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"no images below {folder}")
    if limit is None or limit >= len(paths):
        return paths
    return [paths[i * len(paths) // limit] for i in range(limit)]


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table, numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *[[_cell(row.get(name)) for name in names] for row in rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(names))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        left = [row[0].ljust(widths[0]), *[text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]]
        print("  ".join(left).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def save(path: Path | None, result: Mapping[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n", encoding="utf-8")


# -- running steps ---------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Progress that prints nothing; keeps each step's entry and its peak memory."""

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    def step_start(self, name: str, index: int, count: int, rows: int | None) -> None:
        reset_peak()

    def advance(self, name: str, kept: int, rejected: int, errors: int) -> None:
        """Not shown."""

    def step_end(self, name: str, summary: dict[str, Any]) -> None:
        self.entries[name] = summary
        self.peaks[name] = peak_rss()

    def note(self, text: str) -> None:
        """Not shown."""

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr)


def packaged_env(profile: str = "offline") -> Any:
    """The surroundings that `idtool curate --profile offline` gives to its steps."""
    from importlib import resources

    import yaml

    from idtool.engine.step import Binding, Env

    text = resources.files("idtool").joinpath("pipelines.yaml").read_text("utf-8")
    known = ("model", "revision", "licence", "options", "thresholds")
    bindings = {}
    for role, entries in yaml.safe_load(text)["profiles"][profile]["roles"].items():
        models = entries if isinstance(entries, list) else [entries]
        bindings[role] = tuple(Binding(role, **{k: v for k, v in each.items() if k in known}) for each in models)
    return Env(profile, bindings)


def make_steps(recipe: Sequence[Mapping[str, Any]], env: Any) -> list[tuple[str, Step]]:
    """Steps as a recipe lists them: `{"step": kind, **settings}`; a name is its kind, numbered when repeated."""
    from idtool.curate.registry import STEPS

    made: list[tuple[str, Step]] = []
    for entry in recipe:
        settings = dict(entry)
        kind = str(settings.pop("step"))
        cls = STEPS.get(kind)
        same = sum(name.split("-")[0] == kind for name, _ in made)
        made.append((f"{kind}-{same + 1}" if same else kind, cls(cls.Settings.model_validate(settings), env)))
    return made


def run_steps(
    folder: Path,
    sources: Table,
    recipe: Sequence[Mapping[str, Any]],
    *,
    env: Any = None,
    workers: int = 1,
    columns: pa.Schema | None = None,
    executor: Any = None,
    watch: Watch | None = None,
) -> tuple[Table, Watch]:
    """Run a recipe on a table of sources in `folder` with the engine that the command line uses."""
    from idtool.engine.local import LocalExecutor
    from idtool.engine.operator import Context
    from idtool.engine.plan import Upstream, plan_steps
    from idtool.engine.runner import Runner
    from idtool.run import Run

    planned = plan_steps(make_steps(recipe, env or packaged_env()), columns or sources.schema)
    watch = watch or Watch()
    with Run.create(folder) as run:
        runner = Runner(run, executor or LocalExecutor(workers), Context(str(run.path)), watch)
        table = runner.execute(planned, sources, Upstream("perf", str(sources.rows)))
    return table, watch


def list_sources(folder: Path, inputs: Path) -> Table:
    """The listing of a folder, written below `folder` by the same code as a run's."""
    import pyarrow as pa

    from idtool.engine.operator import KEPT, OUTCOME
    from idtool.engine.table import write_table
    from idtool.media.sources import SCHEMA
    from idtool.media.sources import list_sources as listing

    schema = pa.schema([*SCHEMA, *OUTCOME])

    def batches() -> Iterator[pa.Table]:
        held: list[dict[str, Any]] = []
        for row in listing([str(inputs)]):
            held.append({**row, "status": KEPT})
            if len(held) == 4096:
                yield pa.Table.from_pylist(held, schema=schema)
                held = []
        if held:
            yield pa.Table.from_pylist(held, schema=schema)

    return write_table(folder, batches(), schema)
