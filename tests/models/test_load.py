"""`load`: a binding becomes a ready model, or a sentence that says what is wrong with it."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any

import pytest

import idtool.models
from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import FORMATS, WRAPPERS, format_of, lacking, load, obstacle
from idtool.registry import Registry

MADE: list[Any] = []


class Fake:
    """A wrapper of a format, without weights that mean anything."""

    roles = ("clip", "features")
    packages = ("numpy",)

    def __init__(self, weights: Any, *, device: str = "cpu", threads: int = 1, batch: int = 32) -> None:
        self.weights, self.device, self.threads, self.batch = weights, device, threads, batch
        MADE.append(self)


class Demanding(Fake):
    packages = ("numpy", "no_such_package", "nor_this")


@pytest.fixture(autouse=True)
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for repo in ("fake", "other"):
        (tmp_path / "o" / repo).mkdir(parents=True)
        (tmp_path / "o" / repo / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setenv("IDTOOL_MODELS", str(tmp_path))
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(idtool.models, "WRAPPERS", Registry("model", {"fake": Fake, "demanding": Demanding}))
    monkeypatch.setattr(idtool.models, "_loaded", {})
    MADE.clear()


def bound(role: str = "clip", model: str = "hf:o/fake", **options: Any) -> Binding:
    return Binding(role, model, licence="free", options={"format": "fake", **options})


def test_a_model_is_loaded_with_its_weights_and_options(tmp_path: Path) -> None:
    model = load(bound(batch=4, file="model.safetensors"), device="cpu", threads=3)
    assert (model.batch, model.device, model.threads) == (4, "cpu", 3)
    assert model.weights.path == tmp_path / "o/fake/model.safetensors"
    assert model.weights.facts().keys() == {"model", "revision", "sha256"}
    assert model.weights.licence == "free"


def test_one_instance_per_setting() -> None:
    first = load(bound())
    assert load(bound()) is first
    assert load(bound("features")) is first, "two roles of one model share it"
    others = [
        load(bound(batch=4)),
        load(bound(model="hf:o/other")),
        load(bound(), threads=2),
        load(bound(), device="cuda"),
        load(bound(file="model.safetensors")),
        load(Binding("clip", "hf:o/fake", revision="v1", options={"format": "fake"})),
    ]
    assert len({id(model) for model in [first, *others]}) == 7
    assert len(MADE) == 7


def test_threads_that_ask_at_once_get_one() -> None:
    threads = [threading.Thread(target=lambda: load(bound())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(MADE) == 1


def test_a_binding_may_name_its_device() -> None:
    binding = Binding("clip", "hf:o/fake", options={"format": "fake"}, device="cpu")
    assert load(binding, device="cuda:1").device == "cpu"
    assert load(bound(), device="cuda:1").device == "cuda:1"


def test_the_wrong_role() -> None:
    with pytest.raises(UsageError, match=r"'hf:o/fake' is bound to role 'judge', but it is for clip, features"):
        load(bound("judge"))
    with pytest.raises(UsageError, match="'facex' is bound to role 'faces', but it is for expression"):
        registry = Registry("model", {"facex": Fake})
        idtool.models.WRAPPERS = registry  # restored by the fixture's monkeypatch
        load(Binding("faces", "facex"))


def test_an_unknown_option() -> None:
    with pytest.raises(UsageError, match=r"no option 'bacth'. Did you mean 'batch'\? Available: batch"):
        load(bound(bacth=4))
    with pytest.raises(UsageError, match="no option 'weights'"):
        load(bound(weights="x"))
    assert not MADE


def test_an_unknown_format() -> None:
    with pytest.raises(MissingError, match=r"format 'fakke' is unknown to this version. Did you mean 'fake'"):
        load(bound(format="fakke"))
    with pytest.raises(MissingError, match="models of the kind `insightface:` cannot fill role clip"):
        load(Binding("clip", "insightface:pack"))
    with pytest.raises(MissingError, match="No offline weights are called 'facexx'"):
        load(Binding("expression", "facexx"))


def test_missing_packages() -> None:
    with pytest.raises(MissingError, match=r"not installed: no_such_package, nor_this. Install the extra"):
        load(bound(format="demanding"))
    assert lacking(bound()) is None
    assert not MADE


def test_missing_weights() -> None:
    with pytest.raises(MissingError, match="local:/nowhere does not exist"):
        load(bound(model="local:/nowhere"))
    assert not MADE


def test_every_format_has_a_wrapper_that_names_its_needs() -> None:
    """The real registry: roles, packages and arguments of every wrapper, whatever is installed."""
    assert set(FORMATS.values()) <= set(WRAPPERS.names())
    assert format_of(Binding("clip", "hf:o/r")) == "clip"
    assert format_of(Binding("clip", "hf:o/r", options={"format": "open_clip"})) == "open_clip"
    assert format_of(Binding("expression", "facex")) == "facex"
    assert format_of(Binding("expression", "hf:o/r")) is None
    assert obstacle(Binding("expression", "facex")) is None


@pytest.mark.parametrize("name", ["resemotenet", "hsemotion", "image-classifier"])
def test_packages_are_asked_for_before_anything_is_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idtool.models, "WRAPPERS", WRAPPERS)
    wrapper = WRAPPERS.get(name)
    assert wrapper.packages
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda package, *rest: None if package in wrapper.packages else found(package, *rest),
    )
    binding = Binding(wrapper.roles[0], "hf:o/fake", options={"format": name})
    assert lacking(binding) == f"it needs packages that are not installed: {', '.join(wrapper.packages)}"
    with pytest.raises(MissingError, match="Install the extra"):
        load(binding)
