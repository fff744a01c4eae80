"""The step: reads one table, writes one table (DESIGN §1). Row steps run operators on shards of rows, on any
executor; table steps see the whole table in the driver, for what is global (clustering, pairing, export)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from idtool.engine.executor import Executor
from idtool.engine.operator import Context, Operator
from idtool.engine.progress import Progress
from idtool.engine.table import Table
from idtool.errors import MissingError


class Settings(BaseModel):
    """Base of every settings model: unknown keys are errors, values are checked, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True)
class Binding:
    """A role bound to a model by the profile. Picklable; loaded by `idtool.models.load`."""

    role: str
    model: str
    """Name in the weight catalogue (`scrfd-500m`), or an address such as `hf:<repo>` (`idtool.models.addresses`)."""
    revision: str | None = None
    licence: str = "not stated"
    options: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Calibrated limits that belong to the network, e.g. `same_person: 0.4` (cosine)."""
    device: str | None = None
    """Where this model runs whatever the device of the run; None: where the run says."""
    sha256: str | None = None
    """Expected hash of the weight file, where one file is bound."""
    commercial: str = "unknown"
    """Whether the terms allow commercial use, as we read them: yes, no or unknown."""


@dataclass(frozen=True)
class Env:
    """What steps may ask of their surroundings: the profile's models, the seed, the device."""

    profile: str
    bindings: Mapping[str, tuple[Binding, ...]]
    seed: int = 0
    device: str = "cpu"
    methods: Mapping[str, Any] = field(default_factory=dict)
    """The generators of pipelines.yaml by name, as they are written there; steps that make images name one."""

    def all(self, role: str) -> tuple[Binding, ...]:
        """Every model bound to `role`, the first being the main one; empty when the profile has none."""
        return tuple(self.bindings.get(role, ()))

    def has(self, role: str) -> bool:
        return bool(self.bindings.get(role))

    def require(self, role: str) -> Binding:
        """The main model of `role`. Raises MissingError when the profile binds none."""
        if not self.has(role):
            raise MissingError(
                f"profile {self.profile!r} binds no model to role {role!r}.",
                f"Choose another --profile, or add `{role}` to the profile in pipelines.yaml.",
            )
        return self.bindings[role][0]


class Step(ABC):
    """One entry of a recipe. Subclasses set `kind` and `Settings`, and say what they read and write."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    Settings: ClassVar[type[Settings]] = Settings
    summary: ClassVar[str] = ""
    """One line for `recipes show` and the report."""
    selects_only: ClassVar[bool] = False
    """True for steps that only keep or reject rows: values computed later for a row stay valid when such a
    step's settings change, so they are reused."""
    reuses_rows: ClassVar[bool] = True
    """Whether rows of an earlier table of this step may be taken over when its input gains or loses rows."""
    new_table: ClassVar[bool] = False
    """True for steps whose rows are a new kind of thing (pairs): `writes` is then the whole schema."""
    missing: Mapping[str, str] = MappingProxyType({})
    """Columns that an earlier step leaves out here, with the reason. Set by the planner before anything is asked."""

    def __init__(self, settings: Any, env: Env) -> None:
        self.settings = settings
        self.env = env

    @property
    def rows_from(self) -> Literal["table", "sources", "settings"]:
        """Where its rows come from: the table before it, the run's input wherever it stands, or its settings alone."""
        return "table"

    def skip_reason(self) -> str | None:
        """Why the whole step cannot run here (`needs role i2v; profile offline binds none`), or None."""
        return None

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        """Columns that must exist. `available`: what the steps before provide."""
        return ()

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        """Columns added."""
        return pa.schema([])

    def notes(self) -> list[str]:
        """Parts of the step that are skipped here, one sentence each; shown by plan and by the report."""
        return []

    def provides_none(self) -> Mapping[str, str]:
        """Columns that this step would write if it could, with the reason why not (a role without weights)."""
        return {}

    def config(self) -> dict[str, Any]:
        """JSON-able content of the step's own fingerprint; row steps add their operators' configs."""
        return {"settings": self.settings.model_dump(mode="json")}

    def finish(self, table: Table) -> Iterator[pa.Table] | None:
        """Optional pass over the compacted table (kept rows and others), returning it rewritten: for outcomes
        that need a global view, such as duplicates. None leaves the table as it is."""
        return None

    def is_in_place(self, run_dir: Path) -> bool:
        """Whether what the step leaves outside its table (a data set) is still there; if not, the step is not done."""
        return True

    def models(self) -> list[Binding]:
        """The models whose outputs end up in this step's table."""
        return []

    def unwrapped(self) -> list[Binding]:
        """Further models, which no wrapper of `idtool.models` loads: a program of their own reads their files."""
        return []


class RowStep(Step):
    """A step whose work is a chain of operators on shards."""

    shard_rows: int = 64
    """Rows of a shard: what a worker is handed, what a commit holds."""

    @abstractmethod
    def operators(self) -> list[Operator]:
        """Fresh operators, not set up."""


@dataclass(frozen=True)
class TableContext(Context):
    """What a table step gets besides its input: where it may leave files, and a way to report progress."""

    step_dir: Path = Path()
    statistics: dict[str, Any] = field(default_factory=dict)
    """JSON-able facts about the step, stored in its manifest entry and available to the report."""
    executor: Executor | None = None
    """Of the run, for steps that let operators run on rows of their own making; they must not close it."""
    progress: Progress | None = None
    """Where such steps report."""


class TableStep(Step):
    """A step that needs the whole table at once, read in batches. Runs in the driver; writes batches."""

    @abstractmethod
    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        """Batches of rows with the outcome columns (`idtool.engine.operator.OUTCOME`)."""
