"""Self-supervised features of whole images: DINO (Caron et al., ICCV 2021), DINOv2 (Oquab et al., TMLR 2024), with
registers (Darcet et al., ICLR 2024) and DINOv3 (Siméoni et al., 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from idtool.errors import MissingError, UsageError
from idtool.models import preprocess, runtime, torch_runtime
from idtool.models.sources import Weights
from idtool.models.torch_runtime import Floats, Image

PREPROCESSING = ("hub", "hf")
_CLASSES = {
    "vit": "ViTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
"""`model_type` -> class of transformers."""


class VitFeatures:
    """The class token of a vision transformer after its last layer norm. Safe to call from several threads.

    `preproc` says how images are prepared: `hub` as DINO's own evaluation does (shorter side 256, middle 224, bicubic,
    ImageNet's mean and deviation; other sizes in proportion), `hf` as the checkpoint's own image processor does. They
    give different features. Left out, it is `hub` for a ViT (DINO), whose processor on the hub squeezes the image into
    a square instead, and `hf` for the others. `hub` takes the size that the checkpoint's processor ends at; a ViT's is
    in its configuration.
    """

    roles: ClassVar[tuple[str, ...]] = ("features",)
    packages: ClassVar[tuple[str, ...]] = torch_runtime.PACKAGES

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        compiled: bool = False,
        batch: int = 32,
        preproc: str | None = None,
    ) -> None:
        import transformers

        if preproc is not None and preproc not in PREPROCESSING:
            raise UsageError(
                f"Option `preproc` of {weights.model!r} is {preproc!r}.", f"Use one of {', '.join(PREPROCESSING)}."
            )
        config = torch_runtime.processor(transformers.AutoConfig, weights, "configuration")
        if config.model_type not in _CLASSES:
            raise MissingError(
                f"Model {weights.model} ({weights.path}) is of type {config.model_type!r}, not a vision transformer "
                "whose class token is a feature.",
                f"Bind role features to a model of type {', '.join(_CLASSES)}.",
            )
        is_vit = config.model_type == "vit"
        self._weights, self._dtype, self._compiled, self._batch = weights, dtype, compiled, batch
        self._preproc = preproc or ("hub" if is_vit else "hf")
        self._device = torch_runtime.device_of(device, threads)
        self._turns = torch_runtime.Turns(self._device)
        preparers = torch_runtime.preparers(self._device, threads)
        if self._preproc == "hf":
            self._pictures = preprocess.of_checkpoint(weights, preparers)
        else:
            self._pictures = preprocess.cropped(config.image_size if is_vit else _side(weights), preparers)
        cls = getattr(transformers, _CLASSES[config.model_type])
        # DINO has no pooler: it would be left at random, and refused.
        own: dict[str, Any] = {"add_pooling_layer": False} if is_vit else {}
        network = torch_runtime.pretrained(cls, weights, **own)
        self._network = torch_runtime.ready(network, self._device, dtype, compiled)
        self.dim = int(config.hidden_size)

    def images(self, images: Sequence[Image]) -> Floats:
        """Class tokens (N, `dim`) float32 of RGB uint8 images (H, W, 3) of any size, as the network gives them: not
        of length 1. ValueError for an array of another kind, or when the network gives NaN."""
        return preprocess.encode(
            images,
            self._pictures,
            self._class_tokens,
            batch=self._batch,
            width=self.dim,
            turns=self._turns,
            ahead=self._device.type != "cpu",
        )

    def fingerprint(self) -> dict[str, Any]:
        """What the features depend on."""
        return {
            **self._weights.facts(),
            "preprocessing": f"{self._preproc}: {self._pictures.words}",
            "feature": "class token after the last layer norm",
            "dtype": self._dtype,
            "compiled": self._compiled,
            **runtime.versions("torch", "torchvision", "transformers", "pillow"),
        }

    def _class_tokens(self, tensors: preprocess.Tensors) -> Floats:
        torch = torch_runtime.import_torch()
        pixels = tensors["pixel_values"].to(self._device, torch_runtime.dtype_of(self._dtype), non_blocking=True)
        with torch.inference_mode():
            tokens = self._network(pixel_values=pixels).last_hidden_state[:, 0]
        values: Floats = tokens.float().cpu().numpy()
        return torch_runtime.finite(values, self._weights.model)


def _side(weights: Weights) -> int:
    """The side of the square that a checkpoint's image processor ends at."""
    from transformers import AutoImageProcessor

    processor = torch_runtime.processor(AutoImageProcessor, weights, "image processor")
    shape = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    if not shape.height or shape.height != shape.width:
        raise MissingError(
            f"The image processor of model {weights.model} ({weights.path}) does not end at a square: {shape}.",
            "Use `preproc: hf`.",
        )
    return int(shape.height)
