"""What a recipe needs is had before its first step, or said; and named with its hash in the manifest."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from idtool import launch
from idtool.engine.plan import Planned, Upstream, plan_steps
from idtool.engine.step import Binding, Env
from idtool.errors import MissingError
from idtool.evaluate.measure import MeasureSettings, MeasureStep
from tests.zoo import Zoo

COLUMNS = pa.schema([pa.field(name, pa.string()) for name in ("id", "media", "width", "height")])
AESTHETIC = Binding(
    "aesthetic", "hf:tiny/laion-v2", options={"format": "laion-v2", "file": "head.pth", "backbone": "hf:tiny/clip"}
)


def planned(*bindings: Binding) -> list[Planned]:
    env = Env("p", {binding.role: (binding,) for binding in bindings})
    names = tuple(binding.role for binding in bindings)
    return plan_steps([("measure", MeasureStep(MeasureSettings(measures=names), env))], COLUMNS)


def fetched(folder: Path, *bindings: Binding) -> list[str]:
    said: list[str] = []
    launch.fetch(planned(*bindings), folder, Upstream("sources", "d"), said.append)
    return said


def test_what_is_here_is_found_with_what_it_stands_on(tiny: Zoo, tmp_path: Path) -> None:
    tiny("laion-v2"), tiny("clip")
    assert fetched(tmp_path, AESTHETIC, Binding("clip", "hf:tiny/clip")) == []


def test_a_model_or_its_backbone_that_is_not_here_stops_before_the_first_step(
    tiny: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDTOOL_OFFLINE", "1")
    with pytest.raises(MissingError, match="tiny/nowhere"):
        fetched(tmp_path, Binding("clip", "hf:tiny/nowhere"))
    tiny("laion-v2")
    elsewhere = Binding("aesthetic", AESTHETIC.model, options={**AESTHETIC.options, "backbone": "hf:tiny/gone"})
    with pytest.raises(MissingError, match="tiny/gone"):
        fetched(tmp_path, elsewhere)


def test_packages_that_are_not_installed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "lacking", lambda binding: "it needs packages that are not installed: torch")
    with pytest.raises(MissingError, match=r"Role clip is bound to 'hf:a/b', but it needs packages .*: torch") as error:
        fetched(tmp_path, Binding("clip", "hf:a/b"))
    assert "pip install" in (error.value.hint or "")


def test_models_are_described_with_the_hash_of_what_is_here(tiny: Zoo) -> None:
    tiny("laion-v2"), tiny("clip")
    facts = launch.describe(AESTHETIC)
    assert facts["model"] == "hf:tiny/laion-v2" and len(facts["sha256"]) == 64
    assert facts["backbone"]["model"] == "hf:tiny/clip" and len(facts["backbone"]["sha256"]) == 64
    assert launch.describe(Binding("clip", "hf:tiny/not-here-yet"))["sha256"] is None
    assert launch.describe(Binding("captioner", "api:gpt"))["sha256"] is None
    assert launch.describe(Binding("clip", "hf:tiny/clip", sha256="ab" * 32))["sha256"] == "ab" * 32
    assert len(launch.describe(Binding("faces", "scrfd-500m"))["sha256"]) == 64
