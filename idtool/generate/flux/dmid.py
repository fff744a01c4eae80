"""DMID: dynamic mask attention (paper 000): the ID image as condition tokens of FLUX.1-dev with a LoRA on them, and an
AttnMaskNet in every block that says which tokens may look at the condition how much.

Its weights are not public: it runs from a checkpoint of yours (`idtool.generate.flux.checkpoint`). One without
AttnMaskNets is the paper's DMID-1. `keep` is the region code of DMID-Inpainting (A.3.1, figure 9): what is to be
generated anew is black in the condition image; for checkpoints that were trained with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from idtool.engine.operator import Context
from idtool.errors import MissingError, UsageError
from idtool.generate.flux.checkpoint import Card, check_base, check_ranks, read_card
from idtool.generate.flux.conditioned import ConditionMethod, ConditionSettings, parted
from idtool.generate.method import Image, MethodSettings, Person, Request
from idtool.models import parts, torch_runtime


class DmidSettings(ConditionSettings):
    width: int = Field(default=768, ge=8, le=8192)
    """Pixels; the paper trains at 768."""
    height: int = Field(default=768, ge=8, le=8192)
    beta: float = Field(default=1.0, ge=0)
    """Strength of the masks: their values lie in [-beta, beta]. The paper's default is 1; .5 gives its best balance."""
    keep: Literal["all", "face", "head"] = "all"
    """What of the ID image is shown, the rest is black: region code of DMID-Inpainting. Needs slot `parser`."""


class Dmid(ConditionMethod):
    """The ID image as condition tokens, with learned attention masks."""

    summary = "DMID: the ID image as condition tokens of FLUX, attention masks learned per token; from your checkpoint"
    slots: ClassVar[Mapping[str, str]] = {
        "base": "FLUX.1-dev, a diffusers folder",
        "adapter": "your DMID checkpoint, one .safetensors file with its card (its authors published none)",
    }
    optional: ClassVar[Mapping[str, str]] = {"parser": "a face parser, for setting `keep`"}
    Settings: ClassVar[type[MethodSettings]] = DmidSettings
    people = (1, 1)
    needs_face = True
    masks: Any = None
    """`AttnMaskNets`, where the checkpoint has them."""

    def look(self) -> None:
        path, what = self.file("adapter")
        self.card = read_card(path, "dmid", what, Card)
        check_base(self.card, self.spec.bindings["base"], what)
        if self.card.position_delta is None:
            raise MissingError(f"The card of {what} has no position_delta.", "Add it, as in training.")
        self.position_delta = self.card.position_delta
        self.trained_size = self.card.condition_size or 512
        if getattr(self.spec.settings, "keep", "all") != "all":
            self._needs_parser()

    def _needs_parser(self) -> None:
        if "parser" not in self.spec.bindings:
            raise UsageError(
                f"Setting keep of method {self.spec.name!r} needs a face parser.", "Bind one to its slot `parser`."
            )

    def prepare(self, pipe: Any, context: Context) -> None:
        from idtool.generate.flux.attn_mask_net import MASK_NET, AttnMaskNets, sites_of

        path, what = self.file("adapter")
        card = self.card
        state = torch_runtime.read_tensors(path)
        of_masks = {key: tensor for key, tensor in state.items() if MASK_NET in key}
        rest = {key: tensor for key, tensor in state.items() if key not in of_masks}
        self.loras = self.lora(rest, pipe, what, card.alpha)
        check_ranks(card, self.loras[0].ranks, what)
        if of_masks or card.d2 is not None:
            masks = AttnMaskNets(
                sites_of(pipe.transformer), pipe.transformer.inner_dim, card.d2 or 256, card.residual_blocks
            )
            torch_runtime.fill(masks, of_masks, what)
            self.masks = torch_runtime.ready(masks, self.device, self.precision)
        self.parser = self._parser(context)

    def _parser(self, context: Context) -> Any:
        from dataclasses import replace

        from idtool.models import load

        binding = self.spec.bindings.get("parser")
        if binding is None:
            return None
        return load(replace(binding, role="parser"), device=context.device, threads=context.threads)

    def check(self, request: Request) -> None:
        super().check(request)
        if _settings(request).keep != "all":
            self._needs_parser()

    def retouched(self, person: Person, request: Request) -> Image:
        keep = _settings(request).keep
        if keep == "all":
            return person.image
        found = self.parser([person.image], [person.face])[0]
        shown = parts.mask_of(found.on(*person.image.shape[:2]), parts.MASKS[keep])
        return np.where(shown[..., None], person.image, 0).astype(np.uint8)

    def bias(self, conditions: Sequence[Any], settings: ConditionSettings) -> Callable[..., Any] | None:
        from idtool.generate.flux import attention, transformer

        strength = super().bias(conditions, settings)
        beta = getattr(settings, "beta", 1.0)
        if self.masks is None or beta == 0:
            return strength
        grids = {transformer.condition(k): one.grid for k, one in enumerate(conditions)}

        def bias(site: Any, queries: Mapping[str, Any]) -> Any:
            learned = self.masks[site].fold(queries, {name: grids[name] for name in parted(queries)[1]}, beta)
            return attention.added([learned, strength(site, queries) if strength else None])

        return bias

    def facts(self, request: Request) -> Mapping[str, Any]:
        return {"stage": "DMID-1, no attention masks" if self.masks is None else "attention masks"}


def _settings(request: Request) -> DmidSettings:
    assert isinstance(request.settings, DmidSettings)  # noqa: S101 - the registry pairs class and settings
    return request.settings
