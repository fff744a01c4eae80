"""IdGlow (paper 003): one to three people in one picture by Qwen-Image-Edit-2511, a LoRA trained with an identity loss
that follows the step (and by preferences after that), and a prompt that a vision-language model writes.

Its weights are not public: the LoRA is yours, one `.safetensors` file with its card under the key `idtool` of its
metadata (`Card`). At inference the paper adds to the base model the LoRA and the written prompt; whether reference
tokens are gated by step as well depends on how the LoRA was trained, which its card says (`idglow_gate`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from idtool.engine.operator import Context, is_fatal, is_out_of_memory
from idtool.engine.step import Binding
from idtool.generate import diffusion, dynamic_prompt
from idtool.generate.dynamic_prompt import Rewritten
from idtool.generate.flux import checkpoint
from idtool.generate.idglow_gate import WINDOW, Schedule, State, gated, omega
from idtool.generate.method import Made, MethodSettings, Request, Spec
from idtool.generate.qwen_edit import SEVERAL, QwenEdit, QwenEditSettings
from idtool.models import torch_runtime
from idtool.models.diffusion import PACKAGES

ROLE = "captioner"
TAU = 0.4
"""Ours: the paper gives none."""


class Card(checkpoint.Card):
    """The card of an IdGlow LoRA: `method` idglow, `base`, `rank`, `alpha`, and how it was trained."""

    schedule: Schedule = "constant"
    """Omega(t) of its training."""
    tau: float | None = Field(default=None, ge=0, lt=1)
    """Of the schedules anneal and reverse."""
    gated: bool = False
    """Whether its reference tokens were gated by Omega(t) in training (figure 2), not the loss alone (algorithm 1)."""


class IdGlowSettings(QwenEditSettings):
    steps: int = Field(default=40, ge=2, le=1000)
    """As the model card of Qwen-Image-Edit-2511. One step has no place in its schedule, which ends above 0."""
    adapter_scale: float = Field(default=1.0, ge=0)
    """Strength of the LoRA; 0: the base model."""
    gating: Literal["adapter"] | Schedule = "adapter"
    """How reference tokens are gated by step. `adapter`: as the LoRA was trained, which its card says; constant: not at
    all; anneal: for group photos (equation 4); gate: for changes of age (equation 5); reverse: ours, to compare."""
    tau: float | None = Field(default=None, ge=0, lt=1)
    """Of anneal and reverse; null: the card's, else 0.4."""
    window: tuple[float, float] = WINDOW
    """Of gate: t from which and up to which references speak."""
    dynamic_prompt: Literal["off", "prefer", "require"] = "off"
    """Whether the profile's captioner writes the prompt, from the references and the request's own. `prefer`: where it
    cannot, the request's own is taken and the image's facts say why; `require`: the request is rejected."""

    @model_validator(mode="after")
    def _in_order(self) -> IdGlowSettings:
        low, high = self.window
        if not 0 <= low <= high <= 1:
            raise ValueError(f"window is two shares of the way in order, got {low:g} and {high:g}")
        return self


class IdGlow(QwenEdit):
    """Qwen-Image-Edit-2511 with your LoRA; one image a call, for so the pipeline is."""

    summary = "IdGlow: up to three people by Qwen-Image-Edit-2511, a LoRA of yours and a written prompt"
    bases: ClassVar[tuple[str, ...]] = (SEVERAL,)
    slots: ClassVar[Mapping[str, str]] = {
        "base": "Qwen-Image-Edit-2511, a diffusers folder",
        "adapter": "your LoRA with its card, one .safetensors file: IdGlow's weights are not public",
    }
    packages: ClassVar[tuple[str, ...]] = (*PACKAGES, "peft")
    fixed: ClassVar[tuple[str, ...]] = ("dtype", "offload", "dynamic_prompt")
    people = (1, 3)
    Settings: ClassVar[type[MethodSettings]] = IdGlowSettings

    def __init__(self, spec: Spec, roles: Mapping[str, Sequence[Binding]] | None = None) -> None:
        super().__init__(spec, roles)
        self.mode = settings_of(spec.settings).dynamic_prompt
        # Not in `roles`: by default no captioner is needed, and none is to be fetched.
        if self.mode != "off":
            self.bound = {ROLE: tuple((roles or {}).get(ROLE, ()))}

    @classmethod
    def why_not(cls, spec: Spec, roles: Mapping[str, Sequence[Binding]]) -> str | None:
        why = super().why_not(spec, roles)
        if why is None and settings_of(spec.settings).dynamic_prompt == "require":
            from idtool.models import lacking, obstacle

            bound = roles.get(ROLE)
            if not bound:
                return f"dynamic_prompt is `require`: needs role {ROLE}, which the profile does not bind"
            why = obstacle(bound[0]) or lacking(bound[0])
            return f"role {ROLE} is bound to {bound[0].model}, and {why}" if why else None
        return why

    def load(self, context: Context) -> None:
        super().load(context)
        # Scheduler and gate keep the step of the image at hand, and workers call from several threads.
        self.turn = threading.Lock()
        self.writer = None
        if self.bound.get(ROLE):
            from idtool.models import load

            self.writer = load(self.bound[ROLE][0], device=context.device, threads=context.threads)

    def prepare(self, pipe: Any, context: Context) -> None:
        weights = self.weights("adapter")
        path = torch_runtime.file_of(weights)
        what = f"Model {weights.model} ({path})"
        self.card = checkpoint.read_card(path, "idglow", what, Card)
        checkpoint.check_base(self.card, self.spec.bindings["base"], what)
        load_lora(pipe, torch_runtime.read_tensors(path), self.card, what)

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        made: list[Made | Exception] = []
        for request, prompt in zip(requests, self.prompts(requests), strict=True):
            try:
                made.append(self.one(request, prompt))
            except Exception as error:
                if is_fatal(error) or is_out_of_memory(error):
                    raise
                made.append(error)
        return made

    def prompts(self, requests: Sequence[Request]) -> list[Rewritten | None]:
        """The written prompts; None: the request's own, as asked for."""
        if self.mode == "off":
            return [None for _ in requests]
        if self.writer is None:
            return [dynamic_prompt.unbound(request) for request in requests]
        return list(dynamic_prompt.rewrite(self.writer, requests))

    def one(self, request: Request, written: Rewritten | None) -> Made:
        """The image of one request. Rejected and errors as `generate` gives them back."""
        if written is not None and self.mode == "require":
            written = written.required()
        settings = settings_of(request.settings)
        prompt = written.prompt if written else request.prompt
        schedule, tau = self.schedule(settings)
        extra = {**self.arguments([request]), "prompt": [prompt]}
        if settings.adapter_scale != 1:
            extra["attention_kwargs"] = {"scale": settings.adapter_scale}
        plain = schedule == "constant"
        with (
            self.turn,
            nullcontext(State()) if plain else gated(self.pipe, omega(schedule, tau, settings.window)) as state,
        ):
            [image] = diffusion.call(self.pipe, [request], extra)
        facts: dict[str, Any] = {"gating": schedule, **diffusion.prompt_facts(self.pipe, prompt)}
        if not plain:
            facts |= {"tau": tau, "gates": [[round(t, 4), round(gate, 4)] for t, gate in state.steps]}
        return Made(image, facts | (written.facts() if written else {"dynamic_prompt": "off", "final_prompt": prompt}))

    def schedule(self, settings: IdGlowSettings) -> tuple[Schedule, float]:
        """Gate of the reference tokens and its tau, by the settings and the card."""
        trained = self.card.schedule if self.card.gated else "constant"
        tau = settings.tau if settings.tau is not None else self.card.tau
        return trained if settings.gating == "adapter" else settings.gating, TAU if tau is None else tau

    def preprocessing(self) -> Mapping[str, Any]:
        return {
            **super().preprocessing(),
            "adapter": self.card.model_dump(mode="json", exclude_none=True),
            **({"captioner": self.writer.fingerprint()} if self.writer is not None else {}),
        }

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | ({} if self.mode == "off" else {"dynamic_prompt": dynamic_prompt.WORDING})


def settings_of(settings: MethodSettings) -> IdGlowSettings:
    """The settings as what they are: the registry pairs class and settings."""
    assert isinstance(settings, IdGlowSettings)  # noqa: S101
    return settings


def load_lora(pipe: Any, state: Mapping[str, Any], card: Card, what: str) -> None:
    """Put a LoRA onto the pipeline's transformer, every key of it accounted for. MissingError that lists what is no
    LoRA's, half a pair, of another network or shape, or of another rank than the card's."""
    from idtool.generate.flux.lora import lora_of

    lora = lora_of(state, pipe.transformer, what, alpha=card.alpha)
    checkpoint.check_ranks(card, lora.ranks, what)
    tensors = {f"transformer.{name}": tensor.to(pipe.transformer.dtype) for name, tensor in lora.state_dict().items()}
    for layer, scale in lora.scales.items():
        # alpha / rank goes into the up matrix: the library takes both for the rank.
        tensors[f"transformer.{layer}.lora_B.weight"] = scale * tensors[f"transformer.{layer}.lora_B.weight"]
    with torch_runtime.as_missing(what):
        pipe.load_lora_weights(tensors, adapter_name="idglow")
