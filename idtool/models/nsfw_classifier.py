"""Explicit images by an image classifier of the hub, such as Falconsai's ViT (`AutoModelForImageClassification`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import crops, runtime, torch_runtime
from idtool.models.sources import Weights
from idtool.registry import did_you_mean

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

EXPLICIT = ("nsfw", "porn", "hentai", "sexy", "explicit", "unsafe", "nude", "nudity")
"""Class names that count as explicit, in lower case."""
HARMLESS = ("normal", "sfw", "safe", "neutral", "drawing", "drawings")


@dataclass(frozen=True)
class Explicitness:
    """How explicit an image is."""

    score: float
    """[0, 1] probability of all explicit classes together."""
    label: str
    """The most probable of them."""


class NsfwClassifier:
    """A classifier whose classes are explicit or harmless by their names. Safe to call from several threads.

    The classes are read off the model; a name that is neither in `EXPLICIT` nor in `HARMLESS` is refused, unless
    option `explicit` lists the classes that count.
    """

    roles: ClassVar[tuple[str, ...]] = ("nsfw",)
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
        explicit: Sequence[str] | None = None,
    ) -> None:
        """`explicit`: names of the classes that count; all others are harmless then. MissingError when the model is
        not complete or its classes cannot be told apart; UsageError when it has no class of those names."""
        self._device = torch_runtime.device_of(device, threads)
        self._turns = torch_runtime.Turns(self._device)
        self._weights, self._dtype, self._batch = weights, dtype, batch
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self._processor = torch_runtime.processor(AutoImageProcessor, weights, "image processor")
        network = torch_runtime.pretrained(AutoModelForImageClassification, weights)
        self.labels: tuple[str, ...] = _labels(network.config, f"Model {weights.model} ({weights.path})")
        self.explicit: tuple[int, ...] = _counted(self.labels, explicit, weights.model)
        self._network = torch_runtime.ready(network, self._device, dtype, compiled)

    def class_scores(self, images: Sequence[Image]) -> Floats:
        """Probabilities (N, number of `labels`), rows of sum 1, of RGB uint8 images (H, W, 3).

        ValueError for an array of another kind, or when the network gives a value that is not finite.
        """
        for image in images:
            crops.check(image)
        return torch_runtime.in_batches(images, self._batch, self._probabilities, len(self.labels))

    def score(self, images: Sequence[Image]) -> list[Explicitness]:
        """How explicit each image is."""
        columns = list(self.explicit)
        rows = self.class_scores(images)[:, columns]
        return [
            Explicitness(min(1.0, float(row.sum())), self.labels[columns[int(row.argmax())]].lower()) for row in rows
        ]

    def _probabilities(self, images: Sequence[Image]) -> Floats:
        import torch

        # Said, not guessed: a picture of 3 pixels could be taken for one of 3 channels.
        pixels = self._processor(images=list(images), input_data_format="channels_last", return_tensors="pt")
        with self._turns, torch.inference_mode():
            batch = pixels["pixel_values"].to(self._device, torch_runtime.dtype_of(self._dtype))
            logits = self._network(pixel_values=batch).logits.float()
            rows = torch.softmax(logits, dim=-1).cpu().numpy()
        return torch_runtime.finite(rows, f"Model {self._weights.model}")

    def fingerprint(self) -> dict[str, Any]:
        """What the scores depend on."""
        return {
            **self._weights.facts(),
            "preprocessing": f"the model's own image processor; explicit: "
            f"{', '.join(self.labels[k] for k in self.explicit)}",
            "dtype": self._dtype,
            **runtime.versions("torch", "torchvision", "transformers", "numpy"),
        }


def _labels(config: Any, what: str) -> tuple[str, ...]:
    names: Mapping[int, str] = config.id2label
    if config.problem_type not in (None, "single_label_classification") or len(names) < 2:
        raise MissingError(f"{what} is no classifier of one class per image.", "Bind the role to another model.")
    return tuple(str(names[number]) for number in sorted(names))


def _counted(labels: Sequence[str], named: Sequence[str] | None, model: str) -> tuple[int, ...]:
    """Indices of the explicit classes."""
    lower = [label.lower() for label in labels]
    if named is not None:
        for name in named:
            if name.lower() not in lower:
                raise UsageError(f"Model {model} has no class {name!r}.", did_you_mean(name, labels, "Its classes"))
        found = tuple(lower.index(name.lower()) for name in named)
    else:
        unknown = [label for label in labels if label.lower() not in (*EXPLICIT, *HARMLESS)]
        if unknown:
            raise MissingError(
                f"Model {model} has classes of which it is not known whether they are explicit: {', '.join(unknown)}.",
                "List those that count in option `explicit`.",
            )
        found = tuple(k for k, label in enumerate(lower) if label in EXPLICIT)
    if not 0 < len(found) < len(labels):
        many = "all" if found else "none"
        raise MissingError(
            f"Of the classes of model {model} ({', '.join(labels)}), {many} would be explicit.",
            "Bind the role to another model, or list those that count in option `explicit`.",
        )
    return found
