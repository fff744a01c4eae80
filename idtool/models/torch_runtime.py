"""What wrappers of PyTorch networks share: devices that are honoured or refused, tensors read without pickles,
checkpoints that fit or are refused with the names that do not, and batches.

Nothing here imports torch before it is called.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from idtool.engine.local import available_cpus
from idtool.engine.operator import is_out_of_memory
from idtool.errors import MissingError, UsageError
from idtool.models import runtime, sources

T = TypeVar("T")
Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PACKAGES = ("torch", "torchvision", "transformers")
"""What a wrapper of a transformers model needs; for the class variable `packages`."""
DTYPES = ("float32", "bfloat16", "float16")


MOST_PREPARERS = 16


def preparers(device: Any, threads: int) -> int:
    """Threads that make pictures ready for a network on a torch device. Beside an accelerator the CPUs have nothing
    else to do, and one of them would let it wait."""
    return threads if device.type == "cpu" else max(threads, min(MOST_PREPARERS, available_cpus()))


def device_of(device: str, threads: int = 1) -> Any:
    """The torch device that was asked for. MissingError when it is not here; `threads` bounds the CPU's per call."""
    torch = import_torch()
    kind, number = runtime.parse_device(device)
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise MissingError(
                f"Device {device!r} was asked for, but PyTorch {torch.__version__} finds no CUDA device.",
                "Use --device cpu; `idtool doctor` shows what is found.",
            )
        if number >= torch.cuda.device_count():
            raise MissingError(
                f"Device {device!r} was asked for, but there are {torch.cuda.device_count()} CUDA devices.",
                "They are counted from 0.",
            )
    elif kind == "mps" and not torch.backends.mps.is_available():
        raise MissingError("Device 'mps' was asked for, but this is no Apple GPU.", "Use --device cpu.")
    elif kind == "cpu":
        torch.set_num_threads(max(1, threads))
    return torch.device(kind, number) if kind == "cuda" else torch.device(kind)


def import_torch() -> Any:
    """The module `torch`. MissingError with how to install it when it is not here."""
    try:
        import torch
    except ImportError as error:
        raise MissingError("This model needs PyTorch, which is not installed.", sources.extra_hint()) from error
    return torch


def dtype_of(name: str) -> Any:
    """The torch dtype of that name. UsageError for one that networks here do not run in."""
    if name not in DTYPES:
        raise UsageError(f"There is no dtype {name!r} for models.", f"Use one of {', '.join(DTYPES)}.")
    return getattr(import_torch(), name)


def ready(network: Any, device: Any, dtype: str = "float32", compiled: bool = False) -> Any:
    """A module on its device in its precision, for inference only; `compiled`: through `torch.compile`."""
    torch = import_torch()
    network = network.to(device=device, dtype=dtype_of(dtype)).eval().requires_grad_(False)
    return torch.compile(network) if compiled else network


def file_of(weights: sources.Weights) -> Path:
    """The path of weights that are one file. MissingError for a folder, with the option that picks a file of it."""
    if weights.path.is_dir():
        raise MissingError(
            f"Model {weights.model} ({weights.path}) is a folder.",
            "Name the weight file in it by option `file` of the binding.",
        )
    return weights.path


def read_tensors(path: Path, inside: str | None = None) -> dict[str, Any]:
    """The tensors of a `.safetensors` or PyTorch file, on the CPU. No pickle is executed (`weights_only=True`).

    `inside`: take this entry of the file (`state_dict`, `model_state_dict`) where it has one. MissingError when the
    file is no checkpoint, or a half one.
    """
    torch = import_torch()
    try:
        state = read_file(path)
    except FileNotFoundError:
        raise MissingError(f"{path} does not exist.", "Check option `file` of the binding in pipelines.yaml.") from None
    # A damaged file makes the readers raise whatever their parsers do.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise MissingError(
            f"{path} cannot be read as a checkpoint (is it complete?): {why}.", "Fetch it again."
        ) from error
    if inside and isinstance(state, Mapping) and inside in state:
        state = state[inside]
    if not isinstance(state, Mapping) or not state or not all(torch.is_tensor(value) for value in state.values()):
        raise MissingError(f"{path} holds no state dict.", "Name a file of tensors by their names.")
    return dict(state)


def read_file(path: Path) -> Any:
    """What a `.safetensors` or PyTorch file holds, on the CPU; no pickle is executed. Errors are the reader's own."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path, device="cpu")
    return import_torch().load(path, map_location="cpu", weights_only=True)


def fill(network: Any, state: Mapping[str, Any], what: str, *, ignore: Sequence[str] = ()) -> None:
    """Load every tensor of `state` into `network`, all of it. MissingError that names what is missing, unexpected or
    of another shape. `ignore`: ends of names that may be missing or unexpected, such as `num_batches_tracked`."""
    own = network.state_dict()
    dropped = tuple(ignore)

    def counts(name: str) -> bool:
        return not (dropped and name.endswith(dropped))

    missing = [name for name in own if name not in state and counts(name)]
    unexpected = [name for name in state if name not in own and counts(name)]
    shapes = [
        f"{name} {tuple(state[name].shape)} in place of {tuple(own[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    if missing or unexpected or shapes:
        raise MissingError(f"{what} does not fit its network: {_differences(missing, unexpected, shapes)}.", _OTHER)
    network.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


_OTHER = "Is it the checkpoint of another model, or a half-downloaded one?"


def checked_report(report: Mapping[str, Any], what: str, *, ignore: Sequence[str] = ()) -> None:
    """Refuse a model of `from_pretrained(..., output_loading_info=True)` that left weights as they were drawn at
    random. MissingError that names them; names that contain one of `ignore` do not count."""

    def names(key: str) -> list[str]:
        found = [entry if isinstance(entry, str) else str(entry[0]) for entry in report.get(key) or ()]
        return sorted(name for name in found if not any(part in name for part in ignore))

    missing, shapes, errors = names("missing_keys"), names("mismatched_keys"), names("error_msgs")
    if missing or shapes or errors:
        raise MissingError(f"{what} does not fit its network: {_differences(missing, [], shapes + errors)}.", _OTHER)


def _differences(missing: Sequence[str], unexpected: Sequence[str], others: Sequence[str]) -> str:
    parts = [
        f"{len(found)} {sort} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
        for sort, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", others))
        if found
    ]
    return "; ".join(parts)


def pretrained(cls: Any, weights: sources.Weights, *, ignore: Sequence[str] = (), **options: Any) -> Any:
    """`cls.from_pretrained` on the folder of `weights`: no network, no remote code, every weight accounted for.

    MissingError when the folder holds no such model, files are damaged, or weights would be left at random.
    """
    from transformers.utils import logging as their_output

    # A bar for each model would run through the tool's own output.
    their_output.disable_progress_bar()
    what = f"Model {weights.model} ({weights.path})"
    # Other shapes are let through to the report, which names them; the library's own error does not.
    settings = {"ignore_mismatched_sizes": True, **options}
    with as_missing(what):
        network, report = cls.from_pretrained(
            weights.path, local_files_only=True, trust_remote_code=False, output_loading_info=True, **settings
        )
    checked_report(report, what, ignore=ignore)
    return network


def processor(cls: Any, weights: sources.Weights, what: str = "processor", **options: Any) -> Any:
    """`cls.from_pretrained` for a tokenizer or processor; errors as `pretrained`."""
    with as_missing(f"The {what} of model {weights.model} ({weights.path})"):
        return cls.from_pretrained(weights.path, local_files_only=True, trust_remote_code=False, **options)


@contextlib.contextmanager
def as_missing(what: str) -> Iterator[None]:
    """Whatever loading raises, as one MissingError that says what could not be loaded. Exhausted memory passes."""
    try:
        yield
    except MissingError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise MissingError(
            f"{what} cannot be loaded: {type(error).__name__}: {why}",
            "Is it complete? `idtool models pull` fetches what is missing.",
        ) from error


class Turns:
    """One call at a time on an accelerator, where calls in several threads would only add their memory; on the CPU
    calls run side by side. Use as `with turns:`."""

    def __init__(self, device: Any) -> None:
        self._lock: Any = contextlib.nullcontext() if str(device) == "cpu" else threading.Lock()

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)


def in_batches(items: Sequence[T], size: int, call: Callable[[Sequence[T]], Floats], width: int) -> Floats:
    """`call` on up to `size` items at a time; the rows one below the other, (0, width) for no items."""
    rows = [call(items[start : start + size]) for start in range(0, len(items), size)]
    return np.concatenate(rows).astype(np.float32, copy=False) if rows else np.zeros((0, width), np.float32)


def finite(values: Floats, what: str) -> Floats:
    """`values` unchanged. ValueError when the network gave NaN or infinity."""
    if not np.isfinite(values).all():
        raise ValueError(f"{what} gave a value that is not finite")
    return values
