"""CLIP (Radford et al., ICML 2021), SigLIP (Zhai et al., ICCV 2023) and SigLIP 2 (Tschannen et al., 2025) as
transformers runs them. Those of open_clip are in `openclip`."""

from __future__ import annotations

from typing import Any

from idtool.errors import MissingError
from idtool.models import preprocess, runtime, torch_runtime
from idtool.models.image_text import MODEL_TYPES, ImageText, Texts, architecture, clip_score
from idtool.models.openclip import OpenClip
from idtool.models.sources import Weights

__all__ = ["OpenClip", "Texts", "TransformersClip", "clip_score"]

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
_SIGLIP2_TOKENS = 256_000
"""Size of the vocabulary (Gemma's) by which SigLIP 2 of one size is told from SigLIP; both are `model_type: siglip`."""


class TransformersClip(ImageText):
    """A CLIP, SigLIP or SigLIP 2 of the hub. Images as the checkpoint's own image processor has them.

    SigLIP reads its last token and learned from texts in lower case that were filled up to the limit, so that is what
    it gets; not every tokenizer that comes with SigLIP 2 lowers them by itself.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        compiled: bool = False,
        batch: int = 32,
    ) -> None:
        super().__init__(weights, device=device, threads=threads, dtype=dtype, compiled=compiled, batch=batch)
        import transformers

        config = torch_runtime.processor(transformers.AutoConfig, weights, "configuration")
        classes = dict(
            zip(MODEL_TYPES, (transformers.CLIPModel, transformers.SiglipModel, transformers.Siglip2Model), strict=True)
        )
        if config.model_type not in classes:
            raise MissingError(
                f"Model {weights.model} ({weights.path}) is of type {config.model_type!r}, not a CLIP or SigLIP with "
                "both towers.",
                f"Bind role clip to a model of type {', '.join(classes)}.",
            )
        self._is_siglip = config.model_type != "clip"
        self._tokenizer = _tokenizer(weights)
        self._pictures = preprocess.of_checkpoint(weights, torch_runtime.preparers(self._device, threads))
        network = torch_runtime.pretrained(classes[config.model_type], weights)
        self.scale = float(network.logit_scale.detach().double().exp())
        self._network = torch_runtime.ready(network, self._device, dtype)
        if compiled:
            self._network.vision_model.compile()
            self._network.text_model.compile()
        vision, text = config.vision_config, config.text_config
        self.dim = int(vision.hidden_size if self._is_siglip else config.projection_dim)
        self.limit = int(min(text.max_position_embeddings, self._tokenizer.model_max_length))
        self._known = int(text.vocab_size)
        self._tokenize(["a photo of a face"])
        second = config.model_type == "siglip2" or text.vocab_size >= _SIGLIP2_TOKENS
        family = ("siglip2" if second else "siglip") if self._is_siglip else "vit"
        side = getattr(vision, "image_size", None) if config.model_type != "siglip2" else None
        self.label = architecture(family, vision.hidden_size, vision.patch_size, side)

    def _image_features(self, tensors: preprocess.Tensors) -> Any:
        with torch_runtime.import_torch().inference_mode():
            return self._network.get_image_features(**tensors).pooler_output

    def _text_features(self, tensors: preprocess.Tensors) -> Any:
        with torch_runtime.import_torch().inference_mode():
            return self._network.get_text_features(**tensors).pooler_output

    def _tokenize(self, texts: list[str]) -> tuple[preprocess.Tensors, list[int]]:
        if self._is_siglip:
            texts = [text.lower() for text in texts]
        whole = self._tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        padding = "max_length" if self._is_siglip else "longest"
        found = self._tokenizer(texts, truncation=True, max_length=self.limit, padding=padding, return_tensors="pt")
        if (highest := int(found["input_ids"].max())) >= self._known:
            raise MissingError(
                f"The tokenizer of model {self._weights.model} gives token {highest}, but its text tower has "
                f"{self._known} tokens.",
                "Are these the files of one model?",
            )
        return dict(found), [max(0, len(tokens) - self.limit) for tokens in whole]

    def _text_words(self) -> str:
        how = f"lower case, filled up to {self.limit}" if self._is_siglip else f"at most {self.limit}"
        return f"{type(self._tokenizer).__name__}, {how} tokens"

    def _versions(self) -> dict[str, str]:
        return runtime.versions("torch", "torchvision", "transformers", "tokenizers")


def _tokenizer(weights: Weights) -> Any:
    """The checkpoint's tokenizer. MissingError when there is none: transformers would make up an empty one."""
    from transformers import AutoTokenizer

    if not any((weights.path / name).is_file() for name in _TOKENIZER_FILES):
        raise MissingError(
            f"The tokenizer of model {weights.model} ({weights.path}) is not there: none of "
            f"{', '.join(_TOKENIZER_FILES)}.",
            "Fetch the whole repository again.",
        )
    return torch_runtime.processor(AutoTokenizer, weights, "tokenizer")
