"""What networks that know both pictures and words have in common (role `clip`), whichever library runs them."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from idtool.models import addresses, preprocess, sources, torch_runtime
from idtool.models.sources import Weights
from idtool.models.torch_runtime import Floats, Image

MODEL_TYPES = ("clip", "siglip", "siglip2")
"""`model_type` of the transformers models that fill role `clip`."""
_LETTERS = {384: "s", 768: "b", 1024: "l", 1152: "so400m", 1280: "h", 1408: "g", 1536: "g", 1664: "bigg"}
"""Width of an image tower -> the name that vision transformers of that width go by."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts as a network understood them."""

    features: Floats
    """(N, D), of length 1."""
    cut: list[int]
    """For each text, how many of its tokens the network did not see because it takes no more than its limit."""


class ImageText(ABC):
    """A network with an image tower and a text tower whose features are compared by cosine. Safe to call from several
    threads: they take turns on an accelerator and in the tokenizer."""

    roles: ClassVar[tuple[str, ...]] = ("clip",)
    packages: ClassVar[tuple[str, ...]] = torch_runtime.PACKAGES

    dim: int
    """Numbers in a feature."""
    limit: int
    """Most tokens of a text, its begin and end marks included."""
    scale: float
    """What the network multiplies cosines by to get logits: the learned temperature, `exp(logit_scale)`."""
    label: str
    """Short name of the architecture, such as `vit-l-14`; which weights it has, `fingerprint` tells."""

    def __init__(self, weights: Weights, *, device: str, threads: int, dtype: str, compiled: bool, batch: int) -> None:
        self._weights, self._dtype, self._compiled, self._batch = weights, dtype, compiled, batch
        self._device = torch_runtime.device_of(device, threads)
        self._turns = torch_runtime.Turns(self._device)
        # A fast tokenizer must not be called by two threads at a time: it keeps its settings inside.
        self._tokenizing = threading.Lock()
        self._pictures: preprocess.Pictures

    def images(self, images: Sequence[Image]) -> Floats:
        """Features (N, `dim`) float32 of length 1 of RGB uint8 images (H, W, 3) of any size.

        ValueError for an array of another kind, or when the network gives NaN.
        """
        return preprocess.encode(
            images,
            self._pictures,
            lambda tensors: self._unit(self._image_features(self._put(tensors)), "the image tower"),
            batch=self._batch,
            width=self.dim,
            turns=self._turns,
            ahead=self._device.type != "cpu",
        )

    def texts(self, texts: Sequence[str]) -> Texts:
        """Features (N, `dim`) float32 of length 1 of texts, and what was cut off them. Longer texts than `limit` lose
        their end; an empty one is as good as any."""
        cut: list[int] = []

        def features(part: Sequence[str]) -> Floats:
            with self._tokenizing:
                tensors, lost = self._tokenize(list(part))
            cut.extend(lost)
            with self._turns:
                return self._unit(self._text_features(self._put(tensors)), "the text tower")

        return Texts(torch_runtime.in_batches(texts, self._batch, features, self.dim), cut)

    def fingerprint(self) -> dict[str, Any]:
        """What the features depend on."""
        return {
            **self._weights.facts(),
            "architecture": self.label,
            "preprocessing": self._pictures.words,
            "text": self._text_words(),
            "dtype": self._dtype,
            "compiled": self._compiled,
            **self._versions(),
        }

    @abstractmethod
    def _image_features(self, tensors: preprocess.Tensors) -> Any:
        """The image tower's features (N, dim), of any length."""

    @abstractmethod
    def _text_features(self, tensors: preprocess.Tensors) -> Any:
        """The text tower's features (N, dim), of any length."""

    @abstractmethod
    def _tokenize(self, texts: list[str]) -> tuple[preprocess.Tensors, list[int]]:
        """The text tower's inputs, and how many tokens of each text are not in them."""

    @abstractmethod
    def _text_words(self) -> str:
        """How texts are made into tokens."""

    @abstractmethod
    def _versions(self) -> dict[str, str]:
        """Versions of the libraries that the numbers depend on."""

    def _put(self, tensors: preprocess.Tensors) -> preprocess.Tensors:
        """Inputs on the device; those that are not whole numbers in the network's precision."""
        dtype = torch_runtime.dtype_of(self._dtype)
        return {
            name: value.to(self._device, dtype if value.is_floating_point() else None, non_blocking=True)
            for name, value in tensors.items()
        }

    def _unit(self, features: Any, tower: str) -> Floats:
        torch = torch_runtime.import_torch()
        unit = torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
        return torch_runtime.finite(unit, f"{tower} of {self._weights.model}")


def clip_score(image_features: Floats, text_features: Floats) -> Floats:
    """CLIPScore on the scale of torchmetrics, (N,) in [0, 100]: 100 x the cosine of each image (N, D) and its text
    (N, D), both of length 1, and 0 for a negative one. (Hessel et al., EMNLP 2021, have 2.5 in place of 100.)"""
    cosines = np.sum(np.asarray(image_features, np.float64) * np.asarray(text_features, np.float64), axis=-1)
    return np.asarray(np.maximum(100 * cosines, 0), np.float32)


def shared(address: str, *, revision: str | None = None, device: str, threads: int, **options: Any) -> ImageText:
    """The model of role `clip` at an address, for wrappers that stand on one. It is the same object as the profile's
    model of role `clip` when address, place and options are the same; options at their defaults do not count.

    MissingError when it cannot be had, UsageError for an address that is none.
    """
    from idtool.engine.step import Binding
    from idtool.models import load

    own = {name: value for name, value in options.items() if value != _DEFAULTS[name]}
    kind = address.partition(":")[0]
    if kind not in ("hf", "open_clip"):
        own["format"] = "clip"
    if kind != "open_clip" and _is_of_open_clip(sources.obtain(addresses.parse(address, revision=revision))):
        own["format"] = "open_clip"
    model: ImageText = load(Binding("clip", address, revision, options=own), device=device, threads=threads)
    return model


_DEFAULTS = {"dtype": "float32", "compiled": False, "batch": 32}


def _is_of_open_clip(folder: Path) -> bool:
    """Whether a folder holds a model of open_clip, and none of transformers."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        config = {}
    ours = isinstance(config, dict) and config.get("model_type") in MODEL_TYPES
    return not ours and (folder / "open_clip_config.json").is_file()


def architecture(family: str, width: int, patch: int, side: int | None) -> str:
    """`vit-l-14` for a vision transformer of 1024 numbers, patches of 14 px and pictures of 224; others than 224 are
    said, and `naflex` when pictures keep their shape (`side` None)."""
    size = "" if side == 224 else f"-{side or 'naflex'}"
    return f"{family}-{_LETTERS.get(width, f'w{width}')}-{patch}{size}"
