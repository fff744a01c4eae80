"""`--profile auto` and `--device`: what is chosen, and the reason in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from idtool import launch
from idtool.config import ConfigFile, ResolvedRecipe, Steps, load_config
from idtool.curate import profiles
from idtool.engine.step import Binding, Step
from idtool.errors import MissingError, UsageError
from idtool.registry import Registry

TEXT = """\
version: 1
auto: [paper, offline]
profiles:
  paper:
    summary: hub
    device: cuda
    roles:
      faces: {{model: "{faces}", licence: MIT}}
      captioner: {{model: "hf:some/captioner", licence: MIT}}
  offline: {{summary: cpu, device: cpu, roles: {{faces: {{model: scrfd-500m, licence: MIT}}}}}}
recipes:
  toy: {{summary: r, steps: [{{step: look}}]}}
"""


class Look(Step):
    """Uses the face detector and nothing else."""

    kind = "look"

    def models(self) -> list[Binding]:
        return [self.env.require("faces")]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    registry: Steps = Registry("step", {"look": Look})
    monkeypatch.setattr(profiles, "STEPS", registry)
    return registry


def made(steps: Steps, folder: Path, faces: str) -> tuple[ConfigFile, ResolvedRecipe]:
    path = folder / "c.yaml"
    path.write_text(TEXT.format(faces=faces), "utf-8")
    file = load_config(path, steps)
    return file, file.resolve("toy")


def with_cuda(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (profiles, launch):
        monkeypatch.setattr(module, "find_cuda", lambda: name)


def test_auto_without_cuda_is_offline(steps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cuda(None, monkeypatch)
    chosen, why = profiles.choose_profile(*made(steps, tmp_path, "scrfd-500m"), "auto")
    assert chosen == "offline"
    assert why == "paper needs CUDA, and none is here"


def test_auto_with_cuda_and_loadable_models_is_paper(
    steps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cuda("NVIDIA H200", monkeypatch)
    # The captioner cannot be loaded, but this recipe does not use it.
    assert profiles.choose_profile(*made(steps, tmp_path, "scrfd-500m"), "auto") == (
        "paper",
        "CUDA is here (NVIDIA H200)",
    )


def test_auto_says_that_a_model_of_paper_cannot_be_loaded(
    steps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cuda("NVIDIA H200", monkeypatch)
    chosen, why = profiles.choose_profile(*made(steps, tmp_path, "github:some/detector"), "auto")
    assert chosen == "offline"
    assert "CUDA is here (NVIDIA H200), but paper was passed over" in why
    assert "role faces is bound to github:some/detector, and models of the kind `github:` cannot fill" in why


def test_auto_passes_over_a_profile_whose_packages_are_not_installed(
    steps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cuda("NVIDIA H200", monkeypatch)
    monkeypatch.setattr(profiles, "lacking", lambda binding: "it needs packages that are not installed: insightface")
    chosen, why = profiles.choose_profile(*made(steps, tmp_path, "insightface:buffalo_l"), "auto")
    assert chosen == "offline"
    assert why.endswith(
        "role faces is bound to insightface:buffalo_l, and it needs packages that are not installed: insightface"
    )


def test_a_named_profile_is_taken_or_refused(steps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cuda(None, monkeypatch)
    file, recipe = made(steps, tmp_path, "scrfd-500m")
    assert profiles.choose_profile(file, recipe, "paper") == ("paper", "asked for by name")
    with pytest.raises(UsageError, match=r"has no profile 'ofline'\. Did you mean 'offline'"):
        profiles.choose_profile(file, recipe, "ofline")


@pytest.mark.parametrize(
    ("asked", "of_profile", "cuda", "chosen"),
    [
        ("auto", "auto", None, "cpu"),
        ("auto", "auto", "H200", "cuda"),
        ("auto", "cpu", "H200", "cpu"),
        ("cuda", "cpu", "H200", "cuda"),
        ("cpu", "cuda", None, "cpu"),
        ("auto", "cuda", None, None),
        ("cuda", "cpu", None, None),
    ],
)
def test_device_is_honoured_or_refused(
    asked: str, of_profile: str, cuda: str | None, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cuda(cuda, monkeypatch)
    if chosen is None:
        with pytest.raises(MissingError, match="asks for cuda, but no CUDA device is here"):
            launch.choose_device(asked, of_profile)
    else:
        assert launch.choose_device(asked, of_profile) == chosen
