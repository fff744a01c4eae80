"""Files of IP-Adapters for faces (Ye et al., 2023; InstantID uses the same layout): read without pickles, told apart by
their names, and compared name by name with the UNet that they are for.

`image_proj.*` makes tokens of a face; `ip_adapter.<n>.*` are keys and values for them, and in FaceID files LoRAs of the
attention, where n counts the UNet's attention processors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from idtool.errors import MissingError
from idtool.models import torch_runtime

Kind = Literal["mlp", "plus", "resampler"]
"""mlp: FaceID and Portrait; plus: FaceID-Plus and -PlusV2; resampler: InstantID."""
DEPTH = 4
"""Layers of the perceivers that diffusers reads."""
_OTHER = "Is it the adapter of another base model (SD1.5 or SDXL), or a half-downloaded one?"
_LORA = ("to_q", "to_k", "to_v", "to_out")


@dataclass(frozen=True)
class AdapterFile:
    """What an adapter's file holds."""

    what: str
    """Its address and place, for errors."""
    kind: Kind
    projection: Mapping[str, Any]
    """Tensors of `image_proj`."""
    attention: Mapping[str, Any]
    """Tensors of `ip_adapter` that are keys and values."""
    lora: Mapping[str, Any]
    """Those that are LoRAs; empty where there are none."""

    @property
    def width(self) -> int:
        """Of the face vectors."""
        name = "proj_in.weight" if self.kind == "resampler" else "proj.0.weight"
        return int(self.projection[name].shape[1])

    @property
    def context(self) -> int:
        """Width of the tokens: the UNet's cross-attention."""
        return int(next(iter(self.attention.values())).shape[1])

    @property
    def tokens(self) -> int:
        """A face becomes so many."""
        if self.kind == "resampler":
            return int(self.projection["latents"].shape[1])
        return int(self.projection["proj.2.weight"].shape[0] // self.context)


def read(path: Path, what: str) -> AdapterFile:
    """The adapter in a `.bin` or `.safetensors` file. MissingError when it is none for faces, or names are missing or
    unexpected."""
    projection, attention = _parts(path, what)
    kind = _kind(projection)
    if kind is None:
        raise MissingError(f"{what} is no adapter for face vectors.", "Name a FaceID, Portrait or InstantID file.")
    _compare(set(projection), projection_names(kind), f"The projection in {what}")
    lora = {name: tensor for name, tensor in attention.items() if "_lora." in name}
    rest = {name: tensor for name, tensor in attention.items() if name not in lora}
    if not rest:
        raise MissingError(f"{what} holds no keys and values for attention.", _OTHER)
    return AdapterFile(what, kind, projection, rest, lora)


def fits(file: AdapterFile, unet: Any) -> None:
    """MissingError unless the keys and values are those of the UNet's cross-attention, all of them."""
    expected: dict[str, tuple[int, ...]] = {}
    # Cross-attention stands at every second place; diffusers and the authors count alike.
    crossed = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(crossed):
        shape = tuple(unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape)
        expected |= {f"{2 * number + 1}.to_{part}_ip.weight": shape for part in "kv"}
    _compare(set(file.attention), set(expected), file.what)
    for name, shape in expected.items():
        found = tuple(file.attention[name].shape)
        if found != shape:
            raise MissingError(f"{file.what} does not fit the base: {name} is {found}, not {shape}.", _OTHER)


def put_on(pipe: Any, file: AdapterFile) -> Any:
    """Load projection, keys and values into a pipeline; the projection. LoRAs are not loaded."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    # It would say that there is no encoder for pictures, which nobody asks for.
    logging.set_verbosity_error()
    try:
        with torch_runtime.as_missing(file.what):
            parts = {"image_proj": dict(file.projection), "ip_adapter": dict(file.attention)}
            pipe.load_ip_adapter(parts, subfolder="", weight_name="", image_encoder_folder=None)
    finally:
        logging.set_verbosity(before)
    return pipe.unet.encoder_hid_proj.image_projection_layers[0]


class OwnFaces:
    """Shows each image of a batch its own faces. diffusers' pipelines repeat what they are given for every image, and
    would mix the faces of a batch up."""

    def __init__(self, unet: Any) -> None:
        self._vectors: Any = None
        unet.encoder_hid_proj.register_forward_pre_hook(self._instead)

    def shown(self, parts: Sequence[Any]) -> list[Any]:
        """Take what the next call shows: `parts` are (B, faces, …) for the negative prompts, where there is guidance,
        and for the prompts. Returns what the pipeline is to be given."""
        import torch

        self._vectors = torch.cat(list(parts))
        return [torch.cat([torch.zeros_like(part[:1]) for part in parts])]

    def _instead(self, module: Any, args: tuple[Any, ...]) -> Any:
        if self._vectors is None:
            raise ValueError("the adapter was called before it was shown a face")
        return ([self._vectors],)


def lora_layers(file: AdapterFile, unet: Any) -> dict[str, Any]:
    """The file's LoRAs under the names of the UNet's layers, `<layer>.lora_A.weight` and `.lora_B.weight`.

    MissingError when some of the UNet's attention has none, or there are more.
    """
    found: dict[str, Any] = {}
    expected = set()
    for number, name in enumerate(unet.attn_processors):
        layer = name.removesuffix(".processor")
        for part in _LORA:
            for side, letter in (("down", "A"), ("up", "B")):
                old = f"{number}.{part}_lora.{side}.weight"
                expected.add(old)
                if old in file.lora:
                    inner = f"{layer}.to_out.0" if part == "to_out" else f"{layer}.{part}"
                    found[f"{inner}.lora_{letter}.weight"] = file.lora[old]
    _compare(set(file.lora), expected, f"The LoRA in {file.what}")
    return found


def projection_names(kind: Kind) -> set[str]:
    """Names of the tensors that make tokens of a face vector."""
    norm = {"norm.weight", "norm.bias"}
    mlp = {f"proj.{number}.{part}" for number in (0, 2) for part in ("weight", "bias")} | norm
    if kind == "mlp":
        return mlp
    perceiver = {f"{name}.{part}" for name in ("proj_in", "proj_out", "norm_out") for part in ("weight", "bias")}
    for layer in range(DEPTH):
        start = f"layers.{layer}"
        perceiver |= {f"{start}.0.{norm}.{part}" for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        perceiver |= {f"{start}.0.{name}.weight" for name in ("to_q", "to_kv", "to_out")}
        perceiver |= {f"{start}.1.{name}" for name in ("0.weight", "0.bias", "1.weight", "3.weight")}
    if kind == "resampler":
        return perceiver | {"latents"}
    return mlp | {f"perceiver_resampler.{name}" for name in perceiver}


def _kind(projection: Mapping[str, Any]) -> Kind | None:
    if "latents" in projection:
        return "resampler"
    if "proj.0.weight" not in projection or "proj.3.weight" in projection:
        return None
    return "plus" if any(name.startswith("perceiver_resampler.") for name in projection) else "mlp"


def _parts(path: Path, what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    if path.suffix != ".safetensors":
        found = [torch_runtime.read_tensors(path, inside=name) for name in ("image_proj", "ip_adapter")]
        return found[0], found[1]
    state = torch_runtime.read_tensors(path)
    parts: dict[str, dict[str, Any]] = {"image_proj": {}, "ip_adapter": {}}
    strange = set()
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part in parts:
            parts[part][rest] = tensor
        else:
            strange.add(name)
    _compare(strange, set(), what)
    return parts["image_proj"], parts["ip_adapter"]


def _compare(found: set[str], expected: set[str], what: str) -> None:
    problems = [
        f"{len(names)} {sort} ({', '.join(sorted(names)[:3])}{', …' if len(names) > 3 else ''})"
        for sort, names in (("missing", expected - found), ("unexpected", found - expected))
        if names
    ]
    if problems:
        raise MissingError(f"{what} does not fit: {'; '.join(problems)}.", _OTHER)
