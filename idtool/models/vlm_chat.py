"""How questions are put to a local vision-language model: its processor and chat template, checked before use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from idtool.errors import MissingError
from idtool.models import torch_runtime
from idtool.models.ask import Ask
from idtool.models.asking import reduced
from idtool.models.sources import Weights

_PROBES = ("probe of the question", "probe of the system text")
INSTRUCTED = "Take an instruction-tuned repository with its processor and chat template."


class Chat:
    """The processor of a checkpoint. Not for several threads at once: tokenizers change state while they pad."""

    def __init__(self, weights: Weights, long_side: int) -> None:
        """MissingError when tokenizer, image processor or chat template is missing or of no use with images."""
        from transformers import AutoProcessor

        self._long_side = long_side
        self.processor = torch_runtime.processor(AutoProcessor, weights)
        self.tokenizer = self._checked(f"Model {weights.model} ({weights.path})")
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        self._marks = sorted({*special, *self.tokenizer.all_special_tokens}, key=len, reverse=True)

    def inputs(self, asks: Sequence[Ask]) -> Any:
        """Tensors of questions with the same number of images, padded on the left. Raises what the processor does."""
        return self.processor.apply_chat_template(
            [conversation(ask, self._long_side, self.own_system) for ask in asks],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def mark_in(self, ask: Ask) -> str | None:
        """A special token that the question's own text holds: it would end the turn or stand for an image."""
        text = f"{ask.prompt}\n{ask.system or ''}"
        return next((mark for mark in self._marks if mark in text), None)

    def facts(self) -> str:
        """The preprocessing, in words, for fingerprints."""
        system = "in its own turn" if self.own_system else "before the prompt"
        return (
            f"longer side at most {self._long_side} px, {type(self.processor).__name__}, images before the prompt, "
            f"system text {system}, padded left"
        )

    def _checked(self, what: str) -> Any:
        """The tokenizer, ready for batches, after questions have been written on trial."""
        processor = self.processor
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None or getattr(processor, "image_processor", None) is None:
            part = "tokenizer" if tokenizer is None else "image processor"
            raise MissingError(f"{what} has no {part} (found: {type(processor).__name__}).", INSTRUCTED)
        if not getattr(processor, "chat_template", None):
            processor.chat_template = getattr(tokenizer, "chat_template", None)
        if not processor.chat_template:
            raise MissingError(f"{what} has no chat template.", INSTRUCTED)
        tokenizer.padding_side = "left"
        tokenizer.model_max_length = 1 << 30  # the network's own limit counts; this one only warns on standard error
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token  # what pads is masked, so any token will do
        question, system = _PROBES
        image = np.zeros((28, 28, 3), np.uint8)
        for self.own_system in (True, False):
            written = self._written(Ask(question, (image,), system=system))
            if question in written and system in written:
                if written == self._written(Ask(question, system=system)):
                    raise MissingError(f"The chat template of {what} leaves images out.", INSTRUCTED)
                return tokenizer
        raise MissingError(f"The chat template of {what} leaves the question out.", INSTRUCTED)

    def _written(self, ask: Ask) -> str:
        """A question as the chat template writes it; empty when the template refuses."""
        turns = conversation(ask, self._long_side, self.own_system)
        try:
            return str(self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        # Templates raise errors of their own for roles that they do not know.
        except Exception:
            return ""


def conversation(ask: Ask, long_side: int, own_system: bool) -> list[dict[str, Any]]:
    """A question as chat templates take it: an optional turn of the system, then the user's, images first."""
    from PIL import Image as Pillow

    pictures = [{"type": "image", "image": Pillow.fromarray(reduced(image, long_side))} for image in ask.images]
    prompt = ask.prompt if own_system or not ask.system else f"{ask.system}\n\n{ask.prompt}"
    turns = [{"role": "user", "content": [*pictures, {"type": "text", "text": prompt}]}]
    if own_system and ask.system:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": ask.system}]})
    return turns
