"""Drawing parts of pictures anew by diffusers: FLUX.1-Fill, alone or with ACE++'s LoRA (Mao et al., arXiv:2501.02487),
FLUX.2-klein, and every other checkpoint that diffusers has an inpainting pipeline for.

The network sees the picture, at most `area` pixels of it, and where to draw. What comes back has the size of the
picture and is new everywhere: who calls keeps the pixels that are to stay.
"""

from __future__ import annotations

import inspect
import math
import threading
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import addresses, runtime, sources, torch_runtime
from idtool.models.crops import check
from idtool.models.diffusion import PACKAGES, automatic, load_pipeline, placed
from idtool.models.pipeline_index import index_of
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

MULTIPLE = 16
"""Sides of what the networks see: eight pixels of the autoencoder, two of its latents."""
SMALLEST = 64
"""Pixels of the shorter side, at least: FLUX.2's own limit, and less shows nothing to any of them."""
FILL, KLEIN, ANY = "FluxFillPipeline", "Flux2KleinInpaintPipeline", "AutoPipelineForInpainting"
LORA = "fill"


class Fill:
    """Draws what a mask marks. Safe to call from several threads: one call runs at a time."""

    roles: ClassVar[tuple[str, ...]] = ("fill",)
    packages: ClassVar[tuple[str, ...]] = (*PACKAGES, "peft")

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "auto",
        offload: str = "none",
        lora: str | None = None,
        lora_file: str | None = None,
        area: int = 1024**2,
    ) -> None:
        """`lora`, `lora_file`: address of a LoRA for the transformer, and its file there. `area`: pixels that the
        network sees at once, at most."""
        if area < SMALLEST**2:
            raise UsageError(f"Option `area` of {weights.model} is at least {SMALLEST**2} px. Got {area!r}.")
        self._weights, self.area = weights, int(area)
        self.dtype = automatic(device) if dtype == "auto" else dtype
        place = torch_runtime.device_of(device, threads)
        self.pipe = load_pipeline(pipeline_of(str(index_of(weights)["_class_name"])), weights, self.dtype)
        self._lora = _with_lora(self.pipe, lora, lora_file) if lora else None
        self.pipe = placed(self.pipe, place, offload)
        self._takes = frozenset(inspect.signature(type(self.pipe).__call__).parameters)
        self._turn = threading.Lock()

    @property
    def reference(self) -> Literal["beside", "apart"] | None:
        """How the network is shown another picture of whom it draws: `beside` the picture on one canvas, as ACE++'s
        LoRA has learned it; `apart`, as an argument; not at all."""
        if self._lora is not None and type(self.pipe).__name__ == FILL:
            return "beside"
        return "apart" if "image_reference" in self._takes else None

    def __call__(
        self,
        image: Image,
        mask: Mask,
        prompt: str,
        seed: int,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        reference: Image | None = None,
    ) -> Image:
        """RGB uint8 `image` (H, W, 3), drawn anew where `mask` (H, W) is True; the rest is near what it was, not equal.

        `steps`, `guidance`: None: what the authors recommend. `reference`: only where the network takes it `apart`. The
        same arguments give the same pixels on the same device. ValueError for a mask of another size, an empty one, a
        picture under `SMALLEST` px, and values of the network that are not finite.
        """
        from PIL import Image as Pillow

        check(image)
        height, width = image.shape[:2]
        if mask.shape != (height, width) or not mask.any():
            raise ValueError(f"Expected a mask of {(height, width)} that marks something. Got {mask.shape}")
        if min(height, width) < SMALLEST:
            raise ValueError(f"Expected sides of {SMALLEST} px or more. Got {width} x {height}")
        if reference is not None and self.reference != "apart":
            raise ValueError(f"{type(self.pipe).__name__} takes no reference")
        shown, marked = fitted(image, mask, self.area)
        canvas, cover = _padded(shown), _padded(marked)
        usual = self._usual()
        arguments: dict[str, Any] = {
            "prompt": prompt,
            "image": Pillow.fromarray(canvas),
            "mask_image": Pillow.fromarray(cover.astype(np.uint8) * 255),
            "width": canvas.shape[1],
            "height": canvas.shape[0],
            "strength": 1.0,
            "num_inference_steps": usual[0] if steps is None else steps,
            "guidance_scale": usual[1] if guidance is None else guidance,
            "output_type": "np",
        }
        if reference is not None:
            arguments["image_reference"] = Pillow.fromarray(np.ascontiguousarray(reference))
        given = {name: value for name, value in arguments.items() if name in self._takes and value is not None}
        torch = torch_runtime.import_torch()
        # On the CPU, so that every device draws the same noise.
        generator = torch.Generator("cpu").manual_seed(seed)
        with self._turn, torch.inference_mode():
            made = self.pipe(**given, generator=generator).images[0]
        array = torch_runtime.finite(np.asarray(made, np.float32), self._weights.model)
        if array.shape != canvas.shape:
            raise ValueError(f"{type(self.pipe).__name__} made {array.shape} of {canvas.shape}")
        pixels = np.asarray(np.rint(np.clip(array, 0, 1) * 255), np.uint8)[: shown.shape[0], : shown.shape[1]]
        return _resized(pixels, width, height)

    def fingerprint(self) -> dict[str, Any]:
        """What the pictures depend on besides their arguments."""
        return {
            **self._weights.facts(),
            "pipeline": type(self.pipe).__name__,
            "dtype": self.dtype,
            "area": self.area,
            **({"lora": self._lora} if self._lora else {}),
            **runtime.versions("torch", "diffusers", "transformers", "peft"),
        }

    def _usual(self) -> tuple[int | None, float | None]:
        """Steps and guidance: of FLUX.1-Fill's card, of ACE++'s code, of FLUX.2-klein's card; else the pipeline's."""
        name = type(self.pipe).__name__
        if name == FILL:
            return (28, 50.0) if self._lora else (50, 30.0)
        if name == KLEIN:
            return (4, 1.0) if self.pipe.config.is_distilled else (50, 4.0)
        return None, None


def pipeline_of(named: str) -> str:
    """The class of diffusers that draws with a checkpoint that names a class."""
    if named in (FILL, "Flux2KleinPipeline", KLEIN):
        return FILL if named == FILL else KLEIN
    return named if named.endswith("InpaintPipeline") else ANY


def fitted(image: Image, mask: Mask, area: int) -> tuple[Image, Mask]:
    """Picture and mask, shrunk in proportion until there are at most `area` pixels with their padding. A pixel of the
    smaller mask is marked where any of those under it was."""
    import cv2

    height, width = image.shape[:2]
    whole = math.prod(side + -side % MULTIPLE for side in (height, width))
    if whole <= area:
        return image, mask
    scale = math.sqrt(area / whole)
    # In whole multiples, or padding would make more of them than there may be.
    size = (_floored(width * scale), _floored(height * scale))
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return _resized(image, *size), np.asarray(share > 0, np.bool_)


def _floored(side: float) -> int:
    return max(SMALLEST, int(side) // MULTIPLE * MULTIPLE)


def _padded(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Up to multiples of `MULTIPLE`, to the right and below, by what is at the edge."""
    down, right = (-side % MULTIPLE for side in array.shape[:2])
    return np.pad(array, ((0, down), (0, right), *[(0, 0)] * (array.ndim - 2)), mode="edge")


def _resized(image: Image, width: int, height: int) -> Image:
    from PIL import Image as Pillow

    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    picture = Pillow.fromarray(np.ascontiguousarray(image)).resize((width, height), Pillow.Resampling.LANCZOS)
    return np.array(picture, np.uint8)


def _with_lora(pipe: Any, lora: str, file: str | None) -> dict[str, Any]:
    """Put a LoRA onto the pipeline; its facts. MissingError when it cannot be had, or when it has layers that the
    network has not, which diffusers would leave out without an error."""
    weights = Weights(lora, sources.obtain(addresses.parse(lora, file=file)))
    what = f"LoRA {lora} ({weights.path})"
    if not hasattr(pipe, "load_lora_weights") or not hasattr(pipe, "transformer"):
        raise MissingError(f"{type(pipe).__name__} takes no LoRA.", "Leave option `lora` out.")
    state = torch_runtime.read_tensors(torch_runtime.file_of(weights))
    with torch_runtime.as_missing(what):
        # Converters take the tensors out of the dict that they are given.
        named = pipe.lora_state_dict(dict(state))
        named = named[0] if isinstance(named, tuple) else named
    layers = {name.removeprefix("transformer.").partition(".lora_")[0] for name in named if ".lora_" in name}
    strange = sorted(layers - {name for name, _ in pipe.transformer.named_modules()})
    if strange or not layers:
        found = f"it has {len(strange)} layers that the network has not ({', '.join(strange[:3])})"
        raise MissingError(f"{what} does not fit: {found if strange else 'it holds no LoRA'}.", "Bind the base's LoRA.")
    with torch_runtime.as_missing(what):
        pipe.load_lora_weights(dict(state), adapter_name=LORA)
    return {"model": lora, "file": file, "sha256": weights.sha256()}
