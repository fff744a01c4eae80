"""Starting engines: what they write, where they run, and that threads get an instance each."""

from __future__ import annotations

import os
import threading

import pytest

from idtool.errors import MissingError, UsageError
from idtool.models import runtime

GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"


def test_only_the_greeting_is_taken_out_of_standard_error(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_greeted", False)
    with runtime._without_greeting():
        os.write(2, b"before\n" + GREETING)
        os.write(2, b"no end of line")
    os.write(2, b", after\n")
    with runtime._without_greeting():  # said once in a process: later starts are left alone
        os.write(2, GREETING)
    said = capfd.readouterr().err
    assert said == f"before\nno end of line, after\n{GREETING.decode()}"


def test_an_error_inside_gives_standard_error_back(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_greeted", False)
    with pytest.raises(ValueError, match="broken"), runtime._without_greeting():
        os.write(2, b"why\n")
        raise ValueError("broken network")
    os.write(2, b"and on\n")
    assert capfd.readouterr().err == "why\nand on\n"


def test_each_thread_has_its_own() -> None:
    made = runtime.PerThread(object)
    found = [made.get(), made.get()]
    thread = threading.Thread(target=lambda: found.append(made.get()))
    thread.start()
    thread.join()
    assert found[0] is found[1] is not found[2]


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "cuda:x", "cuda:-1"])
def test_a_device_that_does_not_exist_is_refused(device: str) -> None:
    with pytest.raises(UsageError, match="no device"):
        runtime.parse_device(device)


def test_devices() -> None:
    assert runtime.parse_device("cuda:2") == ("cuda", 2)
    assert runtime.parse_device("cuda") == ("cuda", 0)
    with pytest.raises(MissingError, match="runs on the CPU only"):
        runtime.cpu_only("cuda", "LiteRT")
