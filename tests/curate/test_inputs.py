"""What a run reads: the inputs given, else the sample; nothing where a recipe begins with words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from idtool.curate import pipeline
from idtool.run import Run
from tests.acceptance.runs import idtool

WORDS: dict[str, Any] = {"step": "subjects", "count": {"human": 2}}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recipes of subjects; making the sample is an error."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the sample was made")

    monkeypatch.setattr(pipeline, "make_sample", never)
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "cache"))
    recipes = {
        "words": [WORDS],
        "file": [{"step": "subjects", "by": "input"}],
        "both": [WORDS, {"step": "subjects", "by": "input"}],
        "pictures": [{"step": "ingest"}, WORDS],
    }
    content = {
        "version": 1,
        "auto": ["none"],
        "profiles": {"none": {"summary": "no models", "device": "cpu", "roles": {}}},
        "recipes": {name: {"summary": name, "steps": steps} for name, steps in recipes.items()},
    }
    path = tmp_path / "pipelines.yaml"
    path.write_text(yaml.safe_dump(content), "utf-8")
    return path


def curate(config: Path, recipe: str, *rest: Any) -> Any:
    return idtool("curate", "--config", config, "--recipe", recipe, "--output", config.parent / "run", *rest)


def test_words_need_no_input_and_no_sample(config: Path) -> None:
    result = curate(config, "words")
    assert result.exit_code == 0, result.output
    run = Run(config.parent / "run")
    assert run.manifest["inputs"] == [] and run.manifest["sample"] is False and run.manifest["sources"] == 0
    [step] = run.steps
    assert (step["rows_in"], step["kept"]) == (0, 2)
    # An input is told to be of no use, and makes nothing anew.
    again = curate(config, "words", "--input", config.parent)
    assert again.exit_code == 0 and "--input is not read" in again.output
    assert Run(config.parent / "run").steps == [step]
    planned = idtool("plan", "--config", config, "--recipe", "words", "--output", config.parent / "run", "--json")
    assert '"state": "done"' in planned.output


@pytest.mark.parametrize("recipe", ["file", "both", "pictures"])
def test_all_others_read_the_sample(config: Path, recipe: str) -> None:
    result = curate(config, recipe)
    assert result.exit_code == 1 and "the sample was made" in str(result.exception) + result.output
