"""Hub models end to end from JPEG files against their bare forwards: what the wrapper and the measure step add.

Weights are random, of real size (`model_sizes.py`); the numbers that come out mean nothing, the seconds do. `bare` runs
the network on tensors that are ready, in the same batches; `wrapper` starts from decoded pictures; `step` from JPEG
files, through the operator of the measure step, decoding included; `decode` opens the files in as many threads as the
step does, and does nothing else. The promise: `step` takes at most 1.15 times forward and decode, one after another.

    uv run --all-extras python perf/models.py --size clip-l14 --device cuda --dtype float16 --count 2048 --batch 64
"""

from __future__ import annotations

import argparse

from harness import arguments, fixtures, list_images, machine, median, save, show

parser: argparse.ArgumentParser = arguments(__doc__ or "")
parser.add_argument("--size", action="append", help="one of model_sizes.SIZES; repeatable (default: all)")
parser.add_argument("--device", default="cpu")
parser.add_argument("--dtype", default="float32")
parser.add_argument("--count", type=int, default=16, help="photos; repeated where there are fewer")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--mirror", help="folder to keep the random checkpoints in (default: a temporary one)")
options = parser.parse_args()

import os  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

os.environ["HF_HUB_OFFLINE"] = "1"

import pyarrow as pa  # noqa: E402
import torch  # noqa: E402
from model_sizes import SIZES, build  # noqa: E402

from idtool.engine.operator import Context  # noqa: E402
from idtool.engine.step import Binding, Env  # noqa: E402
from idtool.evaluate.measure import MeasureSettings, MeasureStep  # noqa: E402
from idtool.media import images  # noqa: E402
from idtool.models import load  # noqa: E402


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of a call; the accelerator's queue is empty before and after."""
    if options.device.startswith("cuda"):
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if options.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def bare(model: Any, role: str, pictures: list[Any]) -> Callable[[], None]:
    """The forwards that `model.images(pictures)` makes, on inputs that are on the device already."""
    recorded: list[tuple[Any, dict[str, Any]]] = []
    network = model._network
    target = network.vision_model if role == "clip" else network
    handle = target.register_forward_pre_hook(
        lambda _, args, kwargs: recorded.append((args, dict(kwargs))), with_kwargs=True
    )
    model.images(pictures)
    handle.remove()

    def run() -> None:
        with torch.inference_mode():
            for args, kwargs in recorded:
                target(*args, **kwargs)

    return run


def measure(name: str, mirror: Path, files: list[Path]) -> dict[str, Any]:
    """Images per second of one size, three ways, medians over the rounds, taken in turn."""
    build(mirror, name)
    role = "features" if name.startswith("dino") else "clip"
    binding = Binding(role, f"hf:perf/{name}", options={"dtype": options.dtype, "batch": options.batch})
    model = load(binding, device=options.device, threads=options.threads)
    step = MeasureStep(MeasureSettings(measures=(role,), batch=options.batch), Env("perf", {role: (binding,)}))
    [operator] = step.operators()
    operator.setup(Context("", device=options.device, threads=options.threads))
    sizes = pa.nulls(len(files), pa.int32())
    table = pa.table(
        {"id": [str(k) for k in range(len(files))], "media": list(map(str, files)), "width": sizes, "height": sizes}
    )
    pictures = [images.decode(file.read_bytes()) for file in files]
    forwards = bare(model, role, pictures)
    decoders = ThreadPoolExecutor(operator.decoders)
    ways: dict[str, Callable[[], Any]] = {
        "bare": forwards,
        "decode": lambda: list(decoders.map(lambda file: images.decode(file.read_bytes()).shape, files)),
        "wrapper": lambda: model.images(pictures),
        "step": lambda: operator(table),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways.values():
        way()
    for _ in range(options.rounds):
        for way, call in ways.items():
            times[way].append(seconds(call))
    rate = {way: len(files) / median(values) for way, values in times.items()}
    return {
        "model": name,
        "images": len(files),
        **{f"{way} img/s": rate[way] for way in ways},
        "wrapper / bare": median([b / w for b, w in zip(times["bare"], times["wrapper"], strict=True)]),
        "step / bare": median([b / s for b, s in zip(times["bare"], times["step"], strict=True)]),
        "step / decode": median([d / s for d, s in zip(times["decode"], times["step"], strict=True)]),
    }


def main() -> None:
    folder = fixtures()
    if folder is None:
        raise SystemExit("no photos: set IDTOOL_FIXTURES")
    found = [file for file in list_images(folder) if file.suffix.lower() in (".jpg", ".jpeg")]
    files = [found[k % len(found)] for k in range(options.count)]
    with tempfile.TemporaryDirectory() as scratch:
        mirror = Path(options.mirror or scratch)
        os.environ["IDTOOL_MODELS"] = str(mirror)
        rows = [measure(name, mirror, files) for name in options.size or list(SIZES)]
    about = f"{options.device}, {options.dtype}, batch {options.batch}, {options.threads} thread(s)"
    show(f"hub models end to end ({about})", rows)
    save(options.json, {"about": about, "rows": rows, "machine": machine()})


main()
