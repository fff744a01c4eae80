"""Boxes for phrases: Grounding DINO (Liu et al., ECCV 2024) and MM-Grounding-DINO (Zhao et al., 2024)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import crops, runtime, torch_runtime
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_SEPARATORS = re.compile(r"[.?\s]+")


@dataclass(frozen=True, eq=False)
class Found:
    """One object that answers to a phrase."""

    label: str
    """The phrase, as it was asked."""
    score: float
    """[0, 1] how surely."""
    box: Floats
    """(4,) left, top, right, bottom in pixels of the image."""


@dataclass(frozen=True)
class _Prompt:
    """What is asked about one image."""

    ids: list[int]
    """Tokens of `a. b. c.`, with the tokenizer's own at both ends."""
    phrases: tuple[str, ...]
    """In the order of the prompt, as they were asked."""
    spans: tuple[slice, ...]
    """Of each phrase, its tokens."""


class GroundingDino:
    """Grounding DINO or MM-Grounding-DINO from a folder of transformers. Safe to call from several threads.

    A box counts when its surest token reaches `threshold`, as in the authors' code and in transformers. Its label is
    the phrase whose surest token is surest, told by the token's place: no string is put together and compared, so
    cut words and tokens that two phrases share do no harm. A box whose every phrase stays below `text_threshold`
    (the full stops alone spoke) is dropped.
    """

    roles: ClassVar[tuple[str, ...]] = ("grounder",)
    packages: ClassVar[tuple[str, ...]] = torch_runtime.PACKAGES

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        compiled: bool = False,
        batch: int = 8,
        threshold: float = 0.25,
        text_threshold: float = 0.25,
    ) -> None:
        """`threshold` [0, 1] of a box (the papers use .25 and .30), `text_threshold` [0, 1] of a phrase's tokens."""
        for name, value in (("threshold", threshold), ("text_threshold", text_threshold)):
            if not 0 <= value <= 1:
                raise UsageError(f"Option `{name}` of {weights.model} is {value}, not a share in [0, 1].")
        self._device = torch_runtime.device_of(device, threads)
        from transformers import AutoModelForZeroShotObjectDetection, GroundingDinoProcessor

        self._weights, self._dtype, self._batch = weights, dtype, batch
        self.threshold, self.text_threshold = threshold, text_threshold
        network = torch_runtime.pretrained(AutoModelForZeroShotObjectDetection, weights)
        kind = network.config.model_type
        if kind not in ("grounding-dino", "mm-grounding-dino"):
            raise UsageError(
                f"Model {weights.model} is of the kind {kind!r}, not Grounding DINO.",
                "Bind role grounder to one of grounding-dino or mm-grounding-dino.",
            )
        self._processor = torch_runtime.processor(GroundingDinoProcessor, weights)
        self._tokenizer = tokenizer_of(self._processor, network.config.text_config.vocab_size, weights)
        self._stop = int(self._tokenizer.convert_tokens_to_ids("."))
        if self._stop not in network.model.special_tokens.tolist():
            raise MissingError(
                f"The tokenizer of model {weights.model} ({weights.path}) writes a full stop as token {self._stop}: "
                "there the network does not part phrases.",
                "Are these the files of one model?",
            )
        self.limit = min(network.config.max_text_len, network.config.text_config.max_position_embeddings)
        """Most tokens of all phrases of one image together."""
        self._turns = torch_runtime.Turns(self._device)
        self._network = torch_runtime.ready(network, self._device, dtype)
        if compiled:  # the image backbone; the layers behind it branch on their tensors
            self._network.model.backbone.compile()

    def detect(self, images: Sequence[Image], phrases: Sequence[Sequence[str]]) -> list[list[Found]]:
        """Objects that answer to the phrases of each RGB uint8 image (H, W, 3), surest first.

        All phrases of an image go into one prompt, so they compete and a phrase's score depends on the others. Only
        images of one size after resizing share a batch: padding would change their features at the border. Raises
        ValueError when the sequences differ in length, a phrase has no word, the phrases are longer than `limit`
        tokens together, or the network gives NaN.
        """
        prompts = [self._prompt(asked) for _, asked in zip(images, phrases, strict=True)]
        found: list[list[Found]] = [[] for _ in images]
        groups: dict[tuple[int, ...], list[tuple[int, Any]]] = {}
        for index, image in enumerate(images):
            crops.check(image)
            if prompts[index].phrases:
                pixels = self._pixels(image)
                group = groups.setdefault(tuple(pixels.shape), [])
                group.append((index, pixels))
                if len(group) == self._batch:
                    self._run(groups.pop(tuple(pixels.shape)), images, prompts, found)
        for group in groups.values():
            self._run(group, images, prompts, found)
        return found

    def fingerprint(self) -> dict[str, Any]:
        """What the boxes depend on."""
        return {
            **self._weights.facts(),
            "preprocessing": f"its own processor, {dict(self._processor.image_processor.size)} px, one prompt 'a. b.'",
            "dtype": self._dtype,
            "threshold": self.threshold,
            "text_threshold": self.text_threshold,
            **runtime.versions("torch", "transformers", "numpy"),
        }

    def _prompt(self, phrases: Sequence[str]) -> _Prompt:
        if isinstance(phrases, str):
            raise ValueError(f"Expected a sequence of phrases for each image. Got the text {phrases!r}")
        asked: dict[str, str] = {}
        for phrase in phrases:
            # A full stop or question mark inside would part the phrase in two for the network.
            plain = _SEPARATORS.sub(" ", phrase).strip().lower()
            if not plain:
                raise ValueError(f"the phrase {phrase!r} has no word")
            asked.setdefault(plain, phrase)
        text = " ".join(f"{plain}." for plain in asked)
        ids = self._tokenizer(text, verbose=False)["input_ids"] if asked else []
        if len(ids) > self.limit:
            raise ValueError(
                f"{len(asked)} phrases are {len(ids)} tokens together; {self._weights.model} takes {self.limit}"
            )
        stops = [place for place, token in enumerate(ids) if token == self._stop]
        if len(stops) != len(asked):
            raise ValueError(f"the phrases {list(asked)} cannot be told apart by full stops")
        starts = [1, *(stop + 1 for stop in stops)]
        spans = tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=False))
        return _Prompt(list(ids), tuple(asked.values()), spans)

    def _pixels(self, image: Image) -> Any:
        """(3, H, W) as the network takes it."""
        try:
            made = self._processor.image_processor(
                images=[image], input_data_format="channels_last", return_tensors="pt", do_pad=False
            )
        except ValueError as error:
            raise ValueError(
                f"an image of {image.shape[1]}x{image.shape[0]} px is too thin to be resized to "
                f"{dict(self._processor.image_processor.size)}"
            ) from error
        return made["pixel_values"][0]

    def _run(
        self,
        group: Sequence[tuple[int, Any]],
        images: Sequence[Image],
        prompts: Sequence[_Prompt],
        found: list[list[Found]],
    ) -> None:
        torch = torch_runtime.import_torch()
        ids = [prompts[index].ids for index, _ in group]
        text = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self._device)
        pixels = torch.stack([pixels for _, pixels in group]).to(self._device, torch_runtime.dtype_of(self._dtype))
        with self._turns, torch.inference_mode():
            out = self._network(
                pixel_values=pixels,
                pixel_mask=torch.ones((len(group), *pixels.shape[2:]), dtype=torch.long, device=self._device),
                input_ids=text["input_ids"],
                token_type_ids=torch.zeros_like(text["input_ids"]),
                attention_mask=text["attention_mask"],
            )
            tokens = out.logits.float().sigmoid().cpu().numpy()
            boxes = out.pred_boxes.float().cpu().numpy()
        torch_runtime.finite(tokens, "The grounder")
        torch_runtime.finite(boxes, "The grounder")
        for (index, _), row, places in zip(group, tokens, boxes, strict=True):
            found[index] = self._named(prompts[index], row, places, images[index].shape)

    def _named(self, prompt: _Prompt, tokens: Floats, boxes: Floats, shape: tuple[int, ...]) -> list[Found]:
        """The boxes that count, of one image's tokens (queries, tokens) and boxes (queries, 4: centre, size)."""
        scores = tokens.max(axis=1)
        sureness = np.stack([tokens[:, span].max(axis=1) for span in prompt.spans], axis=1)
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
        height, width = shape[:2]
        corners = np.clip(corners, 0, 1) * np.array([width, height, width, height], np.float32)
        kept = np.flatnonzero((scores > self.threshold) & (sureness.max(axis=1) > self.text_threshold))
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        return [
            Found(prompt.phrases[int(sureness[i].argmax())], float(scores[i]), corners[i].astype(np.float32))
            for i in kept
        ]


def tokenizer_of(processor: Any, vocabulary: int, weights: Weights) -> Any:
    """A processor's tokenizer. MissingError when it does not have about the `vocabulary` of the network: transformers
    makes up one without words where the files are not there."""
    count = len(processor.tokenizer)
    if not vocabulary / 2 < count <= vocabulary:
        raise MissingError(
            f"The tokenizer of model {weights.model} ({weights.path}) has {count} tokens, but its text tower knows "
            f"{vocabulary}.",
            "Is it complete? `idtool models pull` fetches what is missing.",
        )
    return processor.tokenizer
