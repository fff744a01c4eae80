"""Image to video by diffusers: Wan 2.1 and 2.2 (Wan team, arXiv:2503.20314), and LTX-Video (arXiv:2501.00103).

A picture is the first frame, a prompt says what happens. Which pipeline is meant is read off the checkpoint. Clips have
the frame rate that the network was trained at (`fps`), and sizes and numbers of frames that its autoencoder takes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import runtime, torch_runtime
from idtool.models.crops import check
from idtool.models.diffusion import PACKAGES, automatic, load_pipeline, placed
from idtool.models.pipeline_index import has_part, index_of
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]
Size = tuple[int, int]
"""Width and height in pixels."""

WAN, LTX = "WanImageToVideoPipeline", "LTXImageToVideoPipeline"
# The checkpoints of LTX, and the one of Wan 2.2 that makes both kinds of video, name the pipeline without a picture.
CLASSES = {WAN: WAN, "WanPipeline": WAN, LTX: LTX, "LTXPipeline": LTX}
DECODE = {"decode_timestep": 0.05, "decode_noise_scale": 0.025}
"""Of LTX from 0.9.1 on, whose autoencoder takes the last denoising step; the values of its model card."""


@dataclass(frozen=True)
class Asked:
    """How a clip is made; None: as the pipeline does it."""

    frames: int
    negative: str = ""
    steps: int | None = None
    guidance: float | None = None


class ImageToVideo:
    """Clips from first frames. Safe to call from several threads: one call runs at a time."""

    roles: ClassVar[tuple[str, ...]] = ("i2v",)
    # Wan's pipeline calls ftfy without asking whether it is there.
    packages: ClassVar[tuple[str, ...]] = (*PACKAGES, "ftfy")

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "auto",
        offload: str = "none",
        fps: float | None = None,
    ) -> None:
        """`fps`: of checkpoints that were trained at another rate than their family; None: the family's."""
        if fps is not None and not fps > 0:
            raise UsageError(f"Option `fps` of {weights.model} is above 0. Got {fps!r}.")
        index = index_of(weights)
        name = pipeline_of(index, f"Model {weights.model} ({weights.path})")
        self._weights = weights
        self.dtype = automatic(device) if dtype == "auto" else dtype
        place = torch_runtime.device_of(device, threads)
        parts = _precise_parts(weights, index) if name == WAN and self.dtype != "float32" else {}
        self.pipe = placed(load_pipeline(name, weights, self.dtype, **parts), place, offload)
        self._wan = name == WAN
        self.fps = float(fps or native_fps(name, index))
        """Frames a second of the clips."""
        self._turn = threading.Lock()

    @property
    def multiple(self) -> int:
        """Width and height are multiples of it."""
        if not self._wan:
            return max(32, int(self.pipe.vae_spatial_compression_ratio) * int(self.pipe.transformer_spatial_patch_size))
        network = self.pipe.transformer or self.pipe.transformer_2
        return max(16, int(self.pipe.vae_scale_factor_spatial) * int(network.config.patch_size[1]))

    @property
    def stride(self) -> int:
        """Frames behind one frame of latents: a clip has a multiple of it, and one."""
        pipe = self.pipe
        return int(pipe.vae_scale_factor_temporal if self._wan else pipe.vae_temporal_compression_ratio)

    def size(self, shape: Size, area: int) -> Size:
        """Width and height of a clip of about `area` pixels, and no more, of a picture of that width and height."""
        return fitting(shape, area, self.multiple)

    def frames(self, seconds: float) -> int:
        """The number of frames that is nearest to so many seconds, at least the least that moves."""
        return max(1, round(seconds * self.fps / self.stride)) * self.stride + 1

    def __call__(self, image: Image, prompt: str, seed: int, asked: Asked) -> Image:
        """Frames (N, H, W, 3) uint8 of a clip that begins with the RGB uint8 `image` (H, W, 3), of an allowed `size`.

        The same arguments give the same pixels on the same device. ValueError for a size or number of frames that the
        network does not take, and when it gives values that are not finite.
        """
        from PIL import Image as Pillow

        check(image)
        height, width = image.shape[:2]
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"Expected sides in multiples of {self.multiple}. Got {width} x {height}")
        if asked.frames <= self.stride or asked.frames % self.stride != 1:
            raise ValueError(f"Expected a multiple of {self.stride} and one frames, above 1. Got {asked.frames}")
        arguments: dict[str, Any] = {
            "image": Pillow.fromarray(np.ascontiguousarray(image)),
            "prompt": prompt,
            "negative_prompt": asked.negative,
            "height": height,
            "width": width,
            "num_frames": asked.frames,
            "output_type": "np",
            **({} if asked.steps is None else {"num_inference_steps": asked.steps}),
            **({} if asked.guidance is None else {"guidance_scale": asked.guidance}),
            **self._own(),
        }
        with self._turn, torch_runtime.import_torch().inference_mode():
            frames = self.pipe(**arguments, generator=self._generator(seed)).frames[0]
        array = torch_runtime.finite(np.asarray(frames, np.float32), self._weights.model)
        return np.asarray(np.rint(np.clip(array, 0, 1) * 255), np.uint8)

    def fingerprint(self) -> dict[str, Any]:
        """What the clips depend on besides their arguments."""
        return {
            **self._weights.facts(),
            "pipeline": type(self.pipe).__name__,
            "dtype": self.dtype,
            "fps": self.fps,
            **runtime.versions("torch", "diffusers", "transformers"),
        }

    def _own(self) -> dict[str, Any]:
        if self._wan:
            return {}
        return {"frame_rate": self.fps, **(DECODE if self._late_noise else {})}

    @property
    def _late_noise(self) -> bool:
        return not self._wan and bool(self.pipe.vae.config.timestep_conditioning)

    def _generator(self, seed: int) -> Any:
        """On the CPU, so that every device draws the same noise; but LTX's last noise is drawn where the network is,
        and by a generator of that place."""
        torch = torch_runtime.import_torch()
        place = self.pipe._execution_device if self._late_noise else "cpu"
        return torch.Generator(place).manual_seed(seed)


def pipeline_of(index: Mapping[str, Any], what: str) -> str:
    """The class of diffusers that makes clips with a checkpoint. MissingError when there is none; `what` names it."""
    named = str(index["_class_name"])
    if named not in CLASSES:
        raise MissingError(f"{what} is a {named}, which is no image-to-video model.", f"Bind a {' or '.join(CLASSES)}.")
    if named == "WanPipeline" and not index.get("expand_timesteps"):
        raise MissingError(f"{what} makes videos from text alone.", "Bind one of Wan's I2V or TI2V checkpoints.")
    return CLASSES[named]


def native_fps(name: str, index: Mapping[str, Any]) -> float:
    """Frames a second of a family: Wan 16, its TI2V-5B 24, LTX 25 (diffusers' default)."""
    if name == LTX:
        return 25.0
    return 24.0 if index.get("expand_timesteps") else 16.0


def fitting(shape: Size, area: int, multiple: int) -> Size:
    """The largest width and height in multiples of `multiple`, of about the proportions of `shape` and at most `area`
    pixels; at least one multiple each way, whatever the area."""
    ratio = shape[0] / shape[1]
    width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
    return max(1, int(width + 1e-6) // multiple) * multiple, max(1, int(height + 1e-6) // multiple) * multiple


def framed(image: Image, size: Size) -> Image:
    """RGB `image` (H, W, 3) in another size, in its own proportions: scaled until it covers the frame, and the middle
    of it. What is cut off is less than a multiple of the network's along one of the sides."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    check(image)
    return np.array(
        ImageOps.fit(Pillow.fromarray(np.ascontiguousarray(image)), size, Pillow.Resampling.LANCZOS), np.uint8
    )


def _precise_parts(weights: Weights, index: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of Wan that its model cards keep in full precision beside a transformer in half of it."""
    import diffusers
    import transformers

    wanted = {"vae": diffusers.AutoencoderKLWan, "image_encoder": transformers.CLIPVisionModel}
    float32 = torch_runtime.dtype_of("float32")
    with torch_runtime.as_missing(f"Model {weights.model} ({weights.path})"):
        return {
            name: cls.from_pretrained(weights.path / name, dtype=float32, local_files_only=True)
            for name, cls in wanted.items()
            if has_part(dict(index), name)
        }
