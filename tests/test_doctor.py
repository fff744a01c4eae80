"""`idtool doctor`: each check on machines that are made up, and once on this one."""

from __future__ import annotations

import collections
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest

from idtool import doctor
from idtool.doctor import Check
from idtool.machine import cpus, find_cuda, memory


def status(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks}


def test_this_machine_is_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IDTOOL_OFFLINE", raising=False)
    monkeypatch.delenv("IDTOOL_MODELS", raising=False)
    checks = doctor.examine(output=tmp_path)
    assert {"python", "cv2", "onnxruntime", "video", "cpu", "memory", "output", "cache", "weights"} <= set(
        status(checks)
    )
    assert [check for check in checks if check.status == "fail"] == []
    assert all(check.advice for check in checks if check.status != "ok")
    assert doctor.report(checks)["checks"][0]["name"] == "python"


@pytest.mark.parametrize(
    ("installed", "module", "expected"),
    [
        ({"opencv-python": "4", "opencv-python-headless": "5", "onnxruntime": "1"}, "cv2", "fail"),
        ({"opencv-contrib-python": "4", "opencv-python": "4", "onnxruntime": "1"}, "cv2", "fail"),
        ({"opencv-python-headless": "5", "onnxruntime": "1", "onnxruntime-gpu": "1"}, "onnxruntime", "fail"),
        ({"opencv-python-headless": "5", "onnxruntime-gpu": "1"}, "onnxruntime", "ok"),
        ({"opencv-python-headless": "5", "onnxruntime": "1", "onnxruntime-extensions": "1"}, "onnxruntime", "ok"),
        ({"onnxruntime": "1"}, "cv2", "fail"),
    ],
)
def test_clashing_distributions_are_found(installed: dict[str, str], module: str, expected: str) -> None:
    checks = list(doctor._clashes(installed))
    assert status(checks)[module] == expected
    others = [check for check in checks if check.name != module]
    assert [check.status for check in others] == ["ok"]


def test_clash_names_both_and_says_what_to_do() -> None:
    clash = next(doctor._clashes({"opencv-python": "4.1", "opencv-python-headless": "5.0"}))
    assert clash.found == "2 distributions of it: opencv-python 4.1, opencv-python-headless 5.0"
    assert "pip uninstall opencv-python opencv-python-headless" in clash.advice


def test_missing_requirements_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["typer>=0.15", "no-such-thing-xyz[extra]>=2; python_version>'3'", 'other-xyz; extra == "gpu"']
    monkeypatch.setattr(metadata, "requires", lambda _: required)
    check = next(doctor._packages())
    assert (check.status, check.found) == ("fail", "not installed: no-such-thing-xyz")


def test_old_python_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    assert doctor._python().status == "fail"


def test_gpu_that_onnxruntime_cannot_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(doctor, "find_cuda", lambda: "NVIDIA H200")
    assert [check.status for check in doctor._providers()] == ["warn"]
    monkeypatch.setattr(doctor, "find_cuda", lambda: None)
    assert [check.status for check in doctor._providers()] == ["ok"]


def test_extra_models_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    every = dict.fromkeys(doctor._extra("models"), "1.0")
    assert {"torch", "transformers", "insightface", "open-clip-torch"} <= set(every)
    monkeypatch.setattr(doctor, "find_cuda", lambda: None)

    def found(installed: dict[str, str]) -> doctor.Check:
        monkeypatch.setattr(doctor, "_installed", lambda: installed)
        return doctor._pytorch()

    assert found(every).found == "PyTorch 1.0, transformers 1.0"
    bare = found({})
    assert (bare.status, "idtool[models]" in bare.found) == ("ok", True)
    half = found({name: version for name, version in every.items() if name != "insightface"})
    assert (half.status, half.found.endswith("not installed: insightface")) == ("warn", True)


def test_little_space_and_little_memory_warn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10**9))
    assert doctor._disk("disk", tmp_path / "not" / "there").status == "warn"
    monkeypatch.setattr(doctor, "memory", lambda: (64 * 10**9, 2 * 10**9))
    check = doctor._memory()
    assert (check.status, check.found) == ("warn", "2.0 GB (limit of the container)")


def test_output_under_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert doctor._writable(tmp_path / "file").status == "fail"
    assert doctor._writable(tmp_path / "new" / "folder").status == "ok"


def test_absent_weights_fail_only_when_they_may_not_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path))
    monkeypatch.delenv("IDTOOL_MODELS", raising=False)
    monkeypatch.delenv("IDTOOL_OFFLINE", raising=False)
    assert next(doctor._weights()).status == "warn"
    monkeypatch.setenv("IDTOOL_OFFLINE", "1")
    check = next(doctor._weights())
    assert check.status == "fail"
    assert "scrfd-500m" in check.found


def test_index_that_does_not_answer_warns_and_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    check = doctor._index()
    assert check.status == "warn"
    assert "127.0.0.1" in check.found
    assert "secret" not in f"{check}"


def test_container_limits_version_2(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("2000000000\n")
    assert cpus(tmp_path)[1] == 1.5
    assert memory(tmp_path)[1] == 2_000_000_000
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert cpus(tmp_path)[1] is None
    assert memory(tmp_path)[1] is None


def test_container_limits_version_1(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "memory").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "memory/memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert cpus(tmp_path)[1] == 0.5
    assert memory(tmp_path)[1] is None
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert cpus(tmp_path)[1] is None


def driver(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    find_cuda.cache_clear()


@pytest.mark.parametrize(
    ("script", "visible", "found"),
    [
        ("echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'", None, "NVIDIA H200"),
        ("echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'", "", None),
        ("echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'", "-1", None),
        ("echo 'No devices found.'", None, None),
        ("exit 9", None, None),
    ],
)
def test_cuda_is_what_the_driver_lists(
    script: str, visible: str | None, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, script, monkeypatch)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_cuda() == found
    find_cuda.cache_clear()


@pytest.mark.parametrize("address", ["http://me@[s3cret@host/simple", "https://me:s3cret@host:port/simple"])
def test_index_with_an_unreadable_address_warns_and_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", address)
    check = doctor._index()
    assert check.status == "warn"
    assert "s3cret" not in check.found + check.advice
