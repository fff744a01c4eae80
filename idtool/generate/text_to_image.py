"""The profile's text-to-image model (role `t2i`), whatever pipeline its folder names."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from typing import Any

from idtool.engine.operator import Context
from idtool.engine.step import Binding
from idtool.generate.diffusion import call, prompt_facts
from idtool.generate.flux2 import prompt_tokens
from idtool.generate.method import Image, Request
from idtool.models import load


class TextToImage:
    """Prompts to images. Safe to call from several threads."""

    def __init__(self, binding: Binding, context: Context) -> None:
        model = load(binding, device=context.device, threads=context.threads)
        self.dtype, self.pipe = model.dtype, model.pipe
        # Schedulers keep the step of the images at hand.
        self._turn = threading.Lock()

    def __call__(self, requests: Sequence[Request]) -> list[Image]:
        """An image (height, width, 3) for each request; the references are not looked at."""
        with self._turn:
            return call(self.pipe, requests, {})

    def unheeded(self, request: Request) -> str | None:
        """Why the negative prompt of a request would be ignored; None when it would not, or there is none."""
        if not (request.negative or "").strip():
            return None
        takes = inspect.signature(type(self.pipe).__call__).parameters
        name = type(self.pipe).__name__
        if "negative_prompt" not in takes:
            return f"{name} takes none"
        if "true_cfg_scale" in takes:
            # A scale of its own that no setting here changes; FLUX.1 has it off.
            return None if takes["true_cfg_scale"].default > 1 else f"{name} is run without classifier-free guidance"
        return None if getattr(request.settings, "guidance", 0.0) > 1 else "set guidance above 1"

    def facts(self, request: Request) -> dict[str, Any]:
        """Tokens of the prompt that were cut off, as `prompt_facts`."""
        if not type(self.pipe).__name__.startswith("Flux2"):
            return prompt_facts(self.pipe, request.prompt)
        limit = inspect.signature(type(self.pipe).__call__).parameters["max_sequence_length"].default
        cut = len(prompt_tokens(self.pipe, request.prompt)) - limit
        return {"prompt_cut": {"tokenizer": cut}} if cut > 0 else {}
