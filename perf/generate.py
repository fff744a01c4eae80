"""Generators at real size: seconds per denoising step and peak memory of methods on the FLUX runtime, against the stock
pipeline and against the bare transformer on the same shapes, in one run.

Weights are random, the transformer's layers of real width; text encoders and autoencoder are tiny, so that the step is
what is timed. `--doubles 19 --singles 38` is FLUX.1 in full (12 B parameters, 24 GB on disk and device in bfloat16).

    uv run --all-extras python perf/generate.py --device cuda --doubles 19 --singles 38 --size 1024
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import arguments, machine, median, save, show

parser: argparse.ArgumentParser = arguments(__doc__ or "")
parser.add_argument("--device", default="cpu")
parser.add_argument("--dtype", default="auto", help="auto: bfloat16 on CUDA, float32 elsewhere")
parser.add_argument("--doubles", type=int, default=1, help="double blocks; FLUX.1 has 19")
parser.add_argument("--singles", type=int, default=2, help="single blocks; FLUX.1 has 38")
parser.add_argument("--heads", type=int, default=24, help="of 128; FLUX.1 has 24")
parser.add_argument("--size", type=int, default=256, help="pixels of a side of the image")
parser.add_argument("--condition", type=int, default=512, help="pixels of a side of the reference, where it is one")
parser.add_argument(
    "--steps", type=int, nargs=2, default=(2, 6), help="two numbers of steps: their difference is timed"
)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--rank", type=int, default=16, help="of the LoRAs")
parser.add_argument("--mirror", help="folder to keep the random checkpoints in (default: a temporary one)")
options = parser.parse_args()

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests.zoo has tokenizers and builders

import numpy as np  # noqa: E402
import torch  # noqa: E402

from idtool.engine.operator import Context  # noqa: E402
from idtool.engine.step import Binding  # noqa: E402
from idtool.generate.method import Person, Request, Spec  # noqa: E402
from idtool.generate.registry import METHODS  # noqa: E402
from tests.zoo import flux as zoo  # noqa: E402

WIDTH = 128 * options.heads
CUDA = options.device.startswith("cuda")
KINDS = ("flux", "ominicontrol", "dmid", "instruct-identity")


def synchronised() -> float:
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def sizes() -> dict[str, Any]:
    return zoo.sizes(
        num_layers=options.doubles,
        num_single_layers=options.singles,
        attention_head_dim=128,
        num_attention_heads=options.heads,
        axes_dims_rope=(16, 56, 56),
    )


def build(mirror: Path) -> None:
    """`mirror/perf/flux` and the adapters, written once."""
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from safetensors.torch import save_file

    from idtool.generate.flux.attn_mask_net import AttnMaskNets, sites_of
    from idtool.generate.flux.checkpoint import Card, write

    folder = mirror / "perf" / "flux"
    if folder.is_dir():
        return
    parts = zoo.parts()
    with torch.device(options.device):
        network = FluxTransformer2DModel(**sizes())
        network = network.to(torch.bfloat16 if CUDA else torch.float32)
    FluxPipeline(**{**parts, "transformer": network}).save_pretrained(folder)
    omini = zoo.lora_state(zoo.lora_layers(*zoo.OMINI, network=network), options.rank)
    (mirror / "perf" / "ominicontrol" / "omini").mkdir(parents=True)
    save_file(omini, mirror / "perf" / "ominicontrol" / "omini" / "subject_512.safetensors")
    plain = {key.removeprefix("transformer."): value for key, value in omini.items()}
    masks = AttnMaskNets(sites_of(network), WIDTH, 256).state_dict()
    card = Card(
        method="dmid",
        base="perf/flux",
        rank=options.rank,
        alpha=options.rank,
        position_delta=(0, -options.condition // 16),
        condition_size=options.condition,
        d2=256,
    )
    (mirror / "perf" / "dmid").mkdir()
    write(mirror / "perf" / "dmid" / "dmid.safetensors", {**plain, **masks}, card)
    instruct = zoo.lora_state(zoo.lora_layers(*zoo.INSTRUCT, network=network), options.rank, "")
    card = Card(method="instruct-identity", base="perf/flux", rank=options.rank, alpha=options.rank)
    (mirror / "perf" / "instruct-identity").mkdir()
    write(mirror / "perf" / "instruct-identity" / "lora.safetensors", instruct, card)


FILES = {
    "ominicontrol": "omini/subject_512.safetensors",
    "dmid": "dmid.safetensors",
    "instruct-identity": "lora.safetensors",
}


def method(kind: str) -> Any:
    """A method on the random checkpoints, loaded."""
    cls = METHODS.get(kind)
    bindings = {"base": Binding("base", "hf:perf/flux", licence="random weights")}
    if kind in FILES:
        bindings["adapter"] = Binding(
            "adapter", f"hf:perf/{kind}", licence="random weights", options={"file": FILES[kind]}
        )
    values = {"width": options.size, "height": options.size, "dtype": options.dtype}
    if kind == "ominicontrol":
        values["condition_size"] = options.condition
    made = cls(Spec(kind, kind, bindings, cls.Settings.model_validate(values)))
    made.load(Context("", device=options.device, threads=options.threads))
    return made


def request(made: Any, steps: int) -> Request:
    picture = np.random.default_rng(0).integers(0, 256, (options.condition, options.condition, 3), np.uint8)
    people = (Person("picture.png", picture),) if made.people[1] else ()
    settings = made.spec.settings.model_copy(update={"steps": steps})
    return Request("0", "a person", people, 0, options.size, options.size, settings)


def timed(call: Callable[[int], Any]) -> float:
    """Seconds per step: what the larger number of steps takes longer, over the difference; the median of the rounds."""
    few, many = options.steps
    call(few)
    found = []
    for _ in range(options.rounds):
        start = synchronised()
        call(few)
        middle = synchronised()
        call(many)
        found.append(((synchronised() - middle) - (middle - start)) / (many - few))
    return median(found)


def bare(made: Any) -> float:
    """Seconds of one forward of the transformer on what the stock pipeline gives it."""
    network = made.pipe.transformer
    held: list[dict[str, Any]] = []
    hook = network.register_forward_pre_hook(lambda _, args, kwargs: held.append(dict(kwargs)), with_kwargs=True)
    made.generate([request(made, 1)])
    hook.remove()
    with torch.inference_mode():
        return timed(lambda steps: [network(**held[0]) for _ in range(steps)])


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        mirror = Path(options.mirror or scratch)
        os.environ["IDTOOL_MODELS"] = str(mirror)
        build(mirror)
        base = float("nan")
        for kind in KINDS:
            if CUDA:
                gc.collect()  # what the method before held in cycles
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            made = method(kind)
            if kind == "flux":
                base = bare(made)
                rows.append({"method": "bare transformer", "s/step": base, "of bare": 1.0})
            seconds = timed(lambda steps, made=made: made.generate([request(made, steps)]))
            row = {"method": kind, "s/step": seconds, "of bare": seconds / base}
            if CUDA:
                row["GiB"] = torch.cuda.max_memory_allocated() / 2**30
            rows.append(row)
            made.close()
            del made
    blocks = f"{options.doubles}+{options.singles} blocks"
    about = f"{options.device}, {blocks}, {options.size} px, reference {options.condition} px"
    show(f"generators per denoising step ({about})", rows)
    save(options.json, {"about": about, "rows": rows, "machine": machine()})


main()
