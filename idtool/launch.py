"""What every command that runs steps shares: the executor, a clean stop, weights before the first step, the manifest's
view of models."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.engine.commit import sorted_batches
from idtool.engine.executor import Executor
from idtool.engine.local import LocalExecutor, available_cpus
from idtool.engine.operator import KEPT
from idtool.engine.plan import Planned, Upstream, state_of
from idtool.engine.ray_executor import RayExecutor
from idtool.engine.step import Binding
from idtool.engine.table import KeptRows, Table, write_table
from idtool.errors import Interrupted, MissingError
from idtool.machine import find_cuda
from idtool.media.paths import printable, without_login
from idtool.models import addresses, lacking, obstacle, sources, weights
from idtool.models.catalog import catalogue

RAY_PAYS_ROWS = 2_000
RAY_PAYS_CPUS = 8
"""Below either, a Ray start (7 to 30 s) and a copy of the models per worker cost more than they give."""


def executor(engine: str, address: str | None, workers: int | None, rows: int) -> Executor:
    """The executor for `--engine`, `--address` and `--workers`; `auto` takes Ray where it pays."""
    address = address or os.environ.get("RAY_ADDRESS")  # which `ray job submit` sets
    if engine == "auto":
        pays = rows >= RAY_PAYS_ROWS and available_cpus() >= RAY_PAYS_CPUS
        engine = "ray" if address or pays else "local"
    if engine == "ray":
        return RayExecutor(address, workers)
    return LocalExecutor(workers)


def fetch(
    planned: Sequence[Planned],
    run_dir: Path,
    upstream: Upstream,
    announce: Callable[[str], None],
    *,
    wrapped: bool = True,
) -> None:
    """Get what the steps that will run need before the first of them does: a model that cannot be had, or a package
    that is not installed, must fail the run in seconds, not after hours of work. Raises MissingError.

    `wrapped`: all models are loaded by `idtool.models.load`; else some are a generator's own, who reads them itself.
    """
    states = state_of(planned, run_dir, upstream)
    due = [entry.step for entry, (state, _) in zip(planned, states, strict=True) if state in ("run", "depends")]
    bindings = [binding for step in due for binding in step.models()]
    for binding in bindings:
        absent = lacking(binding)
        if why := (wrapped and obstacle(binding)) or absent:
            raise MissingError(
                f"Role {binding.role} is bound to {binding.model!r}, but {why}.",
                sources.extra_hint() if absent else "Bind the role to another model in pipelines.yaml.",
            )
    names = dict.fromkeys(binding.model for binding in bindings)
    weights.fetch([name for name in names if name in catalogue()], announce=announce)
    sources.fetch([*bindings, *(binding for step in due for binding in step.unwrapped())], announce=announce)


def describe(binding: Binding) -> dict[str, Any]:
    """A model as the manifest names it, with the hash of its weights where they are pinned or here."""
    facts = {"role": binding.role, "model": binding.model, "revision": binding.revision, "licence": binding.licence}
    further = {
        name: {"model": binding.options[name], "sha256": _hash(address)}
        for name, address in addresses.further_addresses(binding.options).items()
    }
    if binding.model in catalogue():
        digest = weights.sha256(binding.model)
    elif addresses.is_offline_name(binding.model):
        digest = None
    else:
        digest = binding.sha256 or _hash(addresses.of_binding(binding)[0])
    return {**facts, "sha256": digest, **further}


def _hash(address: addresses.Address) -> str | None:
    """Of weights that are on this machine; None for a server's, and for damaged ones: loading them says why."""
    if address.kind == "api":
        return None
    with contextlib.suppress(MissingError, OSError):
        path = sources.find(address)
        return sources.digest(path) if path is not None else None
    return None


def choose_device(asked: str, of_profile: str) -> str:
    """The device that models get. What is asked for is taken or refused, never replaced (DESIGN §3): MissingError
    when it is CUDA and there is none."""
    wanted = of_profile if asked == "auto" else asked
    if wanted == "auto":
        return "cuda" if find_cuda() else "cpu"
    if wanted == "cuda" and find_cuda() is None:
        who = "--device" if asked == "cuda" else "the profile"
        raise MissingError(
            f"{who} asks for cuda, but no CUDA device is here.",
            "Use --device cpu, or --profile offline; `idtool doctor` shows what is found.",
        )
    return wanted


def first_table(folder: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> Table:
    """The rows that a run starts from, all kept, as a table in `folder` in id order. `schema`: with the outcome."""
    pending = iter(rows)

    def batches() -> Iterator[pa.Table]:
        while batch := [{**row, "status": KEPT} for row in islice(pending, 4096)]:
            yield pa.Table.from_pylist(batch, schema=schema)

    unsorted = write_table(folder / "unsorted", batches(), schema)
    table = write_table(folder / "table", sorted_batches(unsorted.files, schema, folder / "spool"), schema)
    shutil.rmtree(unsorted.path)
    return KeptRows(table.path)


def recorded(text: str) -> str:
    """Text as a manifest may hold it: no login of a URL, no bytes that are not UTF-8."""
    return printable(without_login(text))


def resume_command() -> str:
    """The command line that goes on with this run."""
    return shlex.join(["idtool", *sys.argv[1:]])


@contextlib.contextmanager
def clean_stop(run_dir: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run with what is finished kept, and say how to go on."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with contextlib.suppress(ValueError):  # not in the main thread: the caller's signals are not ours to set
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped. What is finished is kept in {run_dir}.", f"Go on with: {resume_command()}"
        ) from None
