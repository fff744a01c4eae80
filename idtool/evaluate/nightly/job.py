"""What `idtool nightly` does: one night, and before it the nights that broke off."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from idtool.config import ConfigFile
from idtool.console import Reporter
from idtool.errors import IdtoolError, Interrupted, QualityError, RunFailed, UsageError
from idtool.evaluate.bench import BenchRequest, bench
from idtool.evaluate.nightly.judge import SCRATCH, check, judge
from idtool.evaluate.nightly.notify import notify
from idtool.evaluate.nightly.settings import DATE, Nightly, recorded
from idtool.evaluate.nightly.store import Store
from idtool.evaluate.suite import load_suite
from idtool.manifest_folder import lock_folder, now, write_json

DONE = "night.json"
"""In a night's working folder when it is in the store."""


def nightly(file: ConfigFile, job: Nightly, progress: Reporter, *, on: date | None = None) -> dict[str, Any]:
    """Run the night of `on` (today, UTC); returns its summary. First finishes nights that broke off.

    Raises QualityError (exit 3) when the night is complete and no good one: a method failed, an expectation, a floor or
    a rule of regression is broken; whatever `bench` raises when it cannot be completed. The hook is told of every end
    but a stop by hand.
    """
    day = (on or datetime.now(UTC).date()).isoformat()
    told: dict[str, Any] = {"suite": Path(job.suite).stem, "date": day}
    with _telling(job, told, progress), ExitStack() as stack:
        told["suite"] = load_suite(job.suite).name
        store = Store(job.store, told["suite"])
        work = Path(job.work) / told["suite"]
        stack.callback(os.close, _alone(work))
        stack.enter_context(store.locked(job.stale_lock_hours))
        check(job, store)
        nights = _Nights(file, job, store, work, progress)
        for broken in nights.unfinished(day):
            nights.finish(broken)
        try:
            nights.run(day, told)
        finally:
            nights.tidy(day)
    return told


@dataclass(frozen=True)
class _Nights:
    """A job at work, alone."""

    file: ConfigFile
    job: Nightly
    store: Store
    work: Path
    """A folder per night."""
    progress: Reporter

    def run(self, day: str, told: dict[str, Any]) -> None:
        """One night from where it is to its end; what there is to tell goes into `told`."""
        folder = self.work / day
        (folder / DONE).unlink(missing_ok=True)
        try:
            result = bench(self.file, self._request(folder), self.progress)
        except RunFailed as error:
            # All is scored and reported but methods that failed, which is a trouble of a complete night. Nothing is
            # won by doing it again tomorrow: tomorrow's night does.
            if "leaderboard" not in error.details:
                raise
            result = error.details
        told |= {name: result[name] for name in ("bench", "methods", "skipped", "leaderboard")}
        told |= judge(self.job, self.store, folder, day)
        good = not told["troubles"]
        told |= {"good": good, "exit_code": 0 if good else QualityError.exit_code, "finished": now()}
        self.store.publish(folder, day, {**told, "job": recorded(self.job)})
        write_json(folder / DONE, told)
        told["store"] = f"{self.store.shown}/suite={told['suite']}/date={day}"
        if not good:
            first, *more = told["troubles"]
            raise QualityError(
                f"The night of {day} is no good one: {first}" + (f" And {len(more)} more." if more else ""),
                "Its results are in the store; the next nights are compared with the last good one.",
            )

    def finish(self, day: str) -> None:
        """A night that broke off. It must not keep tonight's from running, whatever is wrong with it."""
        self.progress.note(f"the night of {day} broke off: it is finished first")
        told: dict[str, Any] = {"suite": self.work.name, "date": day}
        try:
            with _telling(self.job, told, self.progress):
                self.run(day, told)
        except Interrupted:
            raise
        except Exception as error:
            self.progress.warn(f"the night of {day}: {error}")

    def unfinished(self, day: str) -> list[str]:
        """Nights before that were begun and are not in the store, as far back as they are tried again."""
        return [name for name in self._begun(day) if name >= _before(day, self.job.keep.broken)]

    def _begun(self, day: str) -> list[str]:
        names = sorted(folder.name for folder in self.work.iterdir() if DATE.fullmatch(folder.name))
        return [name for name in names if name < day and not (self.work / name / DONE).exists()]

    def _request(self, folder: Path) -> BenchRequest:
        job = self.job
        return BenchRequest(
            suite=job.suite,
            methods=job.methods,
            identities=job.identities,
            profile=job.profile,
            output=folder,
            metrics=job.metrics,
            skip_bad_references=job.skip_bad_references,
            limit=job.limit,
            seed=job.seed,
            engine=job.engine,
            address=job.address,
            workers=job.workers,
            device=job.device,
            batch=job.batch,
            only="errors" if (folder / "bench.json").exists() else None,
            models_dir=Path(job.models_dir) if job.models_dir else None,
        )

    def tidy(self, day: str) -> None:
        """Throw away what is older than asked for; never the baseline, nor the last good night."""
        keep = self.job.keep
        for scratch in self.work.glob(f"{SCRATCH}*"):
            shutil.rmtree(scratch)
        finished = sorted(path.parent for path in self.work.glob(f"*/{DONE}"))
        for folder in finished[: -keep.work]:
            shutil.rmtree(folder)
        try:
            for name in self._begun(_before(day, keep.broken)):
                self.progress.warn(f"the night of {name} was never finished: given up after {keep.broken} days")
                self.store.remove(name)
                shutil.rmtree(self.work / name)
            nights = self.store.nights() if keep.days else []
            stay = {self.job.baseline, *[night.date for night in nights if night.good][-1:]}
            for night in nights:
                if night.date < _before(day, keep.days or 0) and night.date not in stay:
                    self.progress.note(f"the night of {night.date} is removed from the store")
                    self.store.remove(night.date)
        except IdtoolError as error:
            self.progress.warn(f"not everything was thrown away: {error}")


def _alone(work: Path) -> int:
    """The lock of the working folder. UsageError when a night of it is still running."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        return lock_folder(work)
    except UsageError as error:
        raise UsageError(error.message, "The last night is still running: wait for it.") from error
    except OSError as error:
        raise UsageError(f"Cannot write to {work}: {error.strerror}.", "Give another folder for `work`.") from error


@contextmanager
def _telling(job: Nightly, told: dict[str, Any], progress: Reporter) -> Iterator[None]:
    """Tells the hook how a night ended. `told` becomes the details of its error."""
    told["started"] = now()
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        if "troubles" not in told:
            told["failed"] = str(error) or type(error).__name__
        told |= {"good": False, "exit_code": getattr(error, "exit_code", RunFailed.exit_code)}
        if isinstance(error, IdtoolError):
            error.details = told
        _tell(job, told, progress)
        raise
    _tell(job, told, progress)


def _tell(job: Nightly, told: dict[str, Any], progress: Reporter) -> None:
    if job.notify is None or (job.notify.on == "trouble" and told["good"]):
        return
    for why in notify(job.notify, told):
        progress.warn(why)


def _before(day: str, days: int) -> str:
    return (date.fromisoformat(day) - timedelta(days=days)).isoformat()
