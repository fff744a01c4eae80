"""The shape of pipelines.yaml: profiles, the models that they bind to roles, and recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from idtool.engine.step import Binding

YesNo = Annotated[
    Literal["yes", "no", "unknown"],
    # YAML reads a bare yes or no as a boolean.
    BeforeValidator(lambda value: {True: "yes", False: "no"}[value] if isinstance(value, bool) else value),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class BindingConfig(_Model):
    """A model that a profile gives to a role."""

    model: str = Field(min_length=1)
    """Name in the catalogue of offline weights (`idtool models list`), or `hf:<repo>` and the like for weights
    from elsewhere."""
    revision: str | None = None
    """Commit or release of the weights; null: not pinned."""
    licence: str
    """Terms of the weights, as far as known."""
    commercial: YesNo = "unknown"
    """Whether the terms allow commercial use, as we read them."""
    options: dict[str, Any] = {}
    """Settings of the model's wrapper."""
    thresholds: dict[str, float] = {}
    """Limits calibrated for this network, such as `same_person` (cosine)."""
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")] | None = None
    """Where this model runs whatever --device says, for networks that have no other place; null: where the run says."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Expected hash of the weight file, where `options.file` names one."""

    def bound_to(self, role: str) -> Binding:
        """The binding that steps receive."""
        return Binding(
            role,
            self.model,
            self.revision,
            self.licence,
            dict(self.options),
            dict(self.thresholds),
            self.device,
            self.sha256,
            self.commercial,
        )


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


class Profile(_Model):
    """Which model does what."""

    summary: str
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where models run unless --device says otherwise; auto: CUDA where there is any."""
    roles: dict[str, Annotated[list[BindingConfig], BeforeValidator(_as_list), Field(min_length=1)]]
    """Role -> its model, or a list of models of which the first is the main one."""

    def bindings(self) -> dict[str, tuple[Binding, ...]]:
        return {role: tuple(one.bound_to(role) for one in bound) for role, bound in self.roles.items()}


class Recipe(_Model):
    """A list of steps."""

    summary: str
    paper: str | None = None
    """Where the recipe comes from."""
    max_error_rate: float = Field(0.01, ge=0, le=1)
    """Share of a step's rows that may end in errors (ours or the machine's, not rejects) before the run stops."""
    when: dict[str, list[str]] = {}
    """Profile -> changes to the steps under it, written as for --set; --set itself comes after them."""
    steps: list[dict[str, Any]] = Field(min_length=1)
    """Each with its kind under `step`, and that kind's settings."""


class MethodConfig(_Model):
    """A generator as `idtool generate --method` knows it."""

    kind: str = Field(min_length=1)
    """Which code runs it (`idtool methods list --kinds`)."""
    summary: str | None = None
    """One line; null: the kind's own."""
    models: dict[str, BindingConfig] = {}
    """Slot -> model: `base`, `adapter`, `face` and the like, as the kind says."""
    settings: dict[str, Any] = {}
    """Values of the kind's settings that differ from its defaults."""
    licence: str | None = None
    """Terms that images and scores inherit; null: those of the models."""
    conditions_on: str | None = None
    """The face network that the method looks through: scores of the same network flatter it."""


class Config(_Model):
    """All of pipelines.yaml."""

    version: Literal[1]
    auto: list[str] = Field(min_length=1)
    """What `--profile auto` tries, in this order; the last one is taken when none before it fits."""
    profiles: dict[str, Profile] = Field(min_length=1)
    methods: dict[str, MethodConfig] = {}
    recipes: dict[str, Recipe] = Field(min_length=1)
