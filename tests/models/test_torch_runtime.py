"""What wrappers of PyTorch networks share: devices, checkpoints, reports of loading, batches."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.errors import MissingError, UsageError
from idtool.models import torch_runtime
from idtool.models.sources import Weights
from tests.zoo import Zoo

torch = pytest.importorskip("torch", reason="needs the extra `models`")


class Evil:
    """Unpickling this would create a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


# Devices.


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        assert torch_runtime.device_of("cpu", threads=1) == torch.device("cpu")
        assert torch.get_num_threads() == 1
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(
            MissingError, match=r"'cuda' was asked for, but PyTorch .* finds no CUDA device.*--device cpu"
        ):
            torch_runtime.device_of("cuda")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(MissingError, match="no Apple GPU"):
            torch_runtime.device_of("mps")
        with pytest.raises(UsageError, match="no device 'gpu'"):
            torch_runtime.device_of("gpu")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert torch_runtime.device_of("cuda") == torch.device("cuda", 0)
        assert torch_runtime.device_of("cuda:1") == torch.device("cuda", 1)
        with pytest.raises(MissingError, match="there are 2 CUDA devices"):
            torch_runtime.device_of("cuda:2")
    finally:
        torch.set_num_threads(before)


def test_ready_networks_are_for_inference() -> None:
    network = torch_runtime.ready(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()), "cpu", "bfloat16")
    assert not network.training
    assert {value.dtype for value in network.parameters()} == {torch.bfloat16}
    assert not any(value.requires_grad for value in network.parameters())
    with pytest.raises(UsageError, match=r"no dtype 'int8'.*float32, bfloat16, float16"):
        torch_runtime.ready(torch.nn.Linear(1, 1), "cpu", "int8")


def test_accelerators_take_turns_and_the_cpu_does_not() -> None:
    for device, apart in (("cpu", False), ("cuda:0", True)):
        turns, inside = torch_runtime.Turns(device), threading.Event()

        def call(turns: Any = turns, inside: Any = inside) -> None:
            with turns:
                inside.set()

        with turns:
            thread = threading.Thread(target=call)
            thread.start()
            assert inside.wait(0.2) != apart
        thread.join()
        assert inside.is_set()


# Checkpoints.


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_tensors_are_read(tmp_path: Path, kind: str) -> None:
    from safetensors.torch import save_file

    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}
    path = tmp_path / f"net.{kind}"
    if kind == "pth":
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        save_file(state, path)
    found = torch_runtime.read_tensors(path, "state_dict")
    assert set(found) == set(state)
    assert all(torch.equal(found[name], value) for name, value in state.items())
    if kind == "pth":
        with pytest.raises(MissingError, match="holds no state dict"):
            torch_runtime.read_tensors(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(MissingError, match=rf"net\.{kind} cannot be read as a checkpoint \(is it complete\?\)"):
        torch_runtime.read_tensors(path)
    path.unlink()
    with pytest.raises(MissingError, match=r"does not exist.*option `file`"):
        torch_runtime.read_tensors(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, zipped: bool) -> None:
    trap, path = tmp_path / "sprung", tmp_path / "net.pth"
    if zipped:
        torch.save({"a": torch.zeros(2), "b": Evil(trap)}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Evil(trap)}, 2))
    with pytest.raises(MissingError, match="cannot be read as a checkpoint"):
        torch_runtime.read_tensors(path)
    assert not trap.exists()
    torch.load(path, weights_only=False) if zipped else pickle.loads(path.read_bytes())  # noqa: S301 - the trap works
    assert trap.exists()


def test_a_state_fits_or_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    state = {name: value.clone() + 1 for name, value in network.state_dict().items()}
    torch_runtime.fill(network, state, "it")
    assert all(torch.equal(network.state_dict()[name], value) for name, value in state.items())
    without = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch_runtime.fill(network, without, "it", ignore=("num_batches_tracked",))
    bad = {**without, "0.bias": torch.zeros(4), "2.weight": torch.zeros(1)}
    del bad["0.weight"]
    with pytest.raises(MissingError) as caught:
        torch_runtime.fill(network, bad, "Model x", ignore=("num_batches_tracked",))
    assert caught.value.message == (
        "Model x does not fit its network: 1 missing (0.weight); 1 unexpected (2.weight); "
        "1 of another shape (0.bias (4,) in place of (3,))."
    )
    assert "half-downloaded" in caught.value.hint
    with pytest.raises(MissingError, match=r"4 unexpected \(x0, x1, x2, …\)"):
        torch_runtime.fill(network, {**state, **{f"x{k}": torch.zeros(1) for k in range(4)}}, "it")


def test_reports_of_loading() -> None:
    torch_runtime.checked_report({"missing_keys": [], "unexpected_keys": ["extra"]}, "it")
    torch_runtime.checked_report({"missing_keys": {"head.position_ids"}}, "it", ignore=("position_ids",))
    for report, says in (
        ({"missing_keys": {"b", "a"}}, r"2 missing \(a, b\)"),
        ({"mismatched_keys": [("w", (1,), (2,))]}, r"1 of another shape \(w\)"),
        ({"error_msgs": ["no"]}, r"\(no\)"),
    ):
        with pytest.raises(MissingError, match=says):
            torch_runtime.checked_report(report, "it")


# Models of transformers.


def test_a_model_that_is_not_all_there(tiny: Zoo, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoImageProcessor, ViTForImageClassification

    folder = tiny("nsfw")
    network = torch_runtime.pretrained(ViTForImageClassification, Weights("hf:tiny/nsfw", folder))
    assert network.config.id2label[1] == "nsfw"

    def copied(name: str) -> Weights:
        shutil.copytree(folder, tmp_path / name)
        return Weights(f"hf:o/{name}", tmp_path / name)

    short = copied("short")
    state = load_file(folder / "model.safetensors")
    save_file({name: state[name] for name in state if "classifier" not in name}, short.path / "model.safetensors")
    with pytest.raises(MissingError, match=r"hf:o/short .* 2 missing \(classifier.bias, classifier.weight\)"):
        torch_runtime.pretrained(ViTForImageClassification, short)
    half = copied("half")
    content = (folder / "model.safetensors").read_bytes()
    (half.path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(MissingError, match=r"Model hf:o/half .* cannot be loaded: .*models pull"):
        torch_runtime.pretrained(ViTForImageClassification, half)
    other = copied("other")
    save_file({**state, "classifier.bias": torch.zeros(3)}, other.path / "model.safetensors")
    with pytest.raises(MissingError, match=r"1 of another shape \(classifier.bias\)"):
        torch_runtime.pretrained(ViTForImageClassification, other)
    (tmp_path / "none").mkdir()
    with pytest.raises(MissingError, match="The image processor of model hf:o/none"):
        torch_runtime.processor(AutoImageProcessor, Weights("hf:o/none", tmp_path / "none"), "image processor")


def test_exhausted_memory_is_not_a_missing_model() -> None:
    with pytest.raises(MemoryError), torch_runtime.as_missing("it"):
        raise MemoryError
    with pytest.raises(RuntimeError, match="out of memory"), torch_runtime.as_missing("it"):
        raise RuntimeError("CUDA out of memory")
    with pytest.raises(MissingError, match="it cannot be loaded: KeyError"), torch_runtime.as_missing("it"):
        raise KeyError("x")
    with pytest.raises(MissingError, match="as it was"), torch_runtime.as_missing("it"):
        raise MissingError("as it was")


# Batches.


def test_batches() -> None:
    sizes = []

    def call(items: Any) -> Any:
        sizes.append(len(items))
        return np.array([[item, -item] for item in items])

    rows = torch_runtime.in_batches([1, 2, 3, 4, 5], 2, call, 2)
    assert sizes == [2, 2, 1]
    assert rows.dtype == np.float32
    assert rows[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert torch_runtime.in_batches([], 2, call, 7).shape == (0, 7)
    assert torch_runtime.finite(rows, "it") is rows
    with pytest.raises(ValueError, match="it gave a value that is not finite"):
        torch_runtime.finite(rows * np.nan, "it")
