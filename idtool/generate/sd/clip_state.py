"""CLIP's image tower out of a state dict alone, as methods that trained it along keep it in their own files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from idtool.models.preprocess import Pictures, of_pipeline

HEAD = 64
"""Width of a head in all towers of OpenAI's CLIP."""
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LEGACY = ("embeddings.position_ids",)
"""Ends of names that old files hold and that are no weights."""


class Vision(nn.Module):
    """`vision_model.*` and `visual_projection.weight`."""

    def __init__(self, settings: Mapping[str, int]) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        super().__init__()
        whole = CLIPVisionModelWithProjection(CLIPVisionConfig(**settings))
        self.vision_model, self.visual_projection = whole.vision_model, whole.visual_projection
        self.side, self.width = settings["image_size"], settings["hidden_size"]

    def pooled(self, pixels: Tensor) -> Tensor:
        """(N, width): the class token after the last norm."""
        found: Tensor = self.vision_model(pixels).pooler_output
        return found

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, dim): pooled and projected."""
        found: Tensor = self.visual_projection(self.pooled(pixels))
        return found

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> Vision:
        """The tower in the widths of a checkpoint. KeyError for a name that it has not."""
        return cls(settings_of(state))


def settings_of(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes of a tower, read off its weights. KeyError for a name that it has not."""
    patches = state["vision_model.embeddings.patch_embedding.weight"]
    places = state["vision_model.embeddings.position_embedding.weight"].shape[0] - 1
    layers = {name.split(".")[3] for name in state if name.startswith("vision_model.encoder.layers.")}
    return {
        "hidden_size": patches.shape[0],
        "intermediate_size": state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_attention_heads": patches.shape[0] // HEAD,
        "num_hidden_layers": len(layers),
        "patch_size": patches.shape[2],
        "image_size": round(places**0.5) * patches.shape[2],
        "projection_dim": state["visual_projection.weight"].shape[0],
    }


def without(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without `LEGACY`."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(LEGACY)}


def middle(size: int, threads: int = 1) -> Pictures:
    """CLIP's own preparation: shorter side to `size`, bicubic, the middle square."""
    from torchvision import transforms

    steps = [
        transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(size),
    ]
    return _pictures(steps, f"Pillow: shorter side {size} px bicubic, middle {size} px, CLIP mean/std", threads)


def squared(size: int, threads: int = 1) -> Pictures:
    """The whole picture, black beside it to a square, to `size`, bilinear."""
    from torchvision import transforms

    steps = [_to_square, transforms.Resize((size, size), interpolation=transforms.InterpolationMode.BILINEAR)]
    return _pictures(steps, f"Pillow: black to a square, {size} px bilinear, CLIP mean/std", threads)


def _pictures(steps: list[Any], words: str, threads: int) -> Pictures:
    from torchvision import transforms

    last = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
    return of_pipeline(transforms.Compose([*steps, *last]), words, threads)


def _to_square(picture: Any) -> Any:
    from PIL import Image

    side = max(picture.size)
    canvas = Image.new("RGB", (side, side))
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas
