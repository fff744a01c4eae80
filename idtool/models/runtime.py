"""Starting inference engines: the requested device is honoured or refused, threads are bounded, nothing is shared
between threads that must not be."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

from idtool.errors import MissingError, UsageError

T = TypeVar("T")

_GREETING = b"Created TensorFlow Lite XNNPACK delegate for CPU."
_greeting = threading.Lock()
_greeted = False


class PerThread(Generic[T]):
    """One instance per thread of something that two threads must not share, such as a LiteRT interpreter.

    `factory` is called at the first `get()` in each thread; what it raises goes to the caller.
    """

    def __init__(self, factory: Callable[[], T]) -> None:
        self._factory = factory
        self._local = threading.local()

    def get(self) -> T:
        """The calling thread's own instance."""
        if not hasattr(self._local, "value"):
            self._local.value = self._factory()
        value: T = self._local.value
        return value


def parse_device(device: str) -> tuple[str, int]:
    """`cpu`, `mps`, `cuda` or `cuda:<n>` as kind and number. UsageError for anything else."""
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and (kind != "cuda" or not number.isdecimal())):
        raise UsageError(f"There is no device {device!r}.", "Use cpu, cuda, cuda:<number> or mps.")
    return kind, int(number or 0)


def cpu_only(device: str, engine: str) -> None:
    """MissingError unless `device` is the CPU: for engines that have no other back-end here."""
    if parse_device(device)[0] != "cpu":
        raise MissingError(
            f"{engine} runs on the CPU only, but device {device!r} was asked for.",
            "Give the model `device: cpu` in the profile (pipelines.yaml), or use --device cpu.",
        )


def onnx_session(path: str | Path, device: str = "cpu", threads: int = 1) -> Any:
    """An ONNX Runtime session on exactly the device that was asked for; its `run` may be called from many threads.

    `threads` bounds the threads inside one call. MissingError when CUDA is asked for and the installed ONNX
    Runtime cannot use it (it would otherwise fall back to the CPU with a warning nobody reads).
    """
    import onnxruntime as ort

    kind, number = parse_device(device)
    options = ort.SessionOptions()
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads that spin take the cores from the decoders and from other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted, settings = "CPUExecutionProvider", {}
    if kind == "mps":
        cpu_only(device, "ONNX Runtime, as set up here,")
    if kind == "cuda":
        wanted, settings = "CUDAExecutionProvider", {"device_id": str(number)}
        if wanted not in ort.get_available_providers():
            raise _no_cuda(device)
    session = ort.InferenceSession(str(path), options, providers=[(wanted, settings)])
    if session.get_providers()[0] != wanted:
        raise _no_cuda(device)
    return session


def litert(model: str | Path | bytes, device: str = "cpu", threads: int = 1) -> PerThread[Any]:
    """LiteRT interpreters of one network, a separate one for each thread, tensors allocated.

    `model` is a file or its bytes. MissingError for any device but the CPU.
    """
    cpu_only(device, "LiteRT")

    def start() -> Any:
        from ai_edge_litert.interpreter import Interpreter

        source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
        interpreter = Interpreter(num_threads=max(1, threads), **source)
        with _without_greeting():
            interpreter.allocate_tensors()
        return interpreter

    return PerThread(start)


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """Take LiteRT's note about its CPU back-end out of standard error, and nothing else.

    It comes from C++, once in a process, when the first network is made ready; there is no log level for it. For those
    milliseconds file descriptor 2 leads to a file, which is then passed on without that line.
    """
    global _greeted
    with _greeting:
        if _greeted:
            restore = None
        else:
            _greeted = True
            restore = _captured()
        try:
            yield
        finally:
            if restore is not None:
                restore()


def _captured() -> Callable[[], None] | None:
    """Lead file descriptor 2 to a file; returns what undoes it. None when there is no such descriptor."""
    try:
        sys.stderr.flush()
        real = os.dup(2)
    except (OSError, ValueError, AttributeError):
        return None
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `restore`
    os.dup2(file.fileno(), 2)

    def restore() -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os.dup2(real, 2)
        os.close(real)
        with file:
            file.seek(0)
            for line in file:
                if _GREETING not in line:
                    os.write(2, line)

    return restore


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of the libraries that a wrapper's numbers depend on, for its fingerprint."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def _no_cuda(device: str) -> MissingError:
    return MissingError(
        f"Device {device!r} was asked for, but ONNX Runtime cannot use CUDA here.",
        "Use --device cpu, or install onnxruntime-gpu in place of onnxruntime together with the CUDA libraries.",
    )
