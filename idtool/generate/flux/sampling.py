"""The denoising loop of FLUX, as in diffusers' `FluxPipeline.__call__`, with a say for methods at every step.

What does not concern the methods is the pipeline's own: encoding of prompts, noise, schedule, decoding. Without a
method's changes the latents are those of `FluxPipeline` to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Encoded prompts."""

    tokens: Tensor
    """(B, tokens, width of T5)."""
    pooled: Tensor
    """(B, width of CLIP)."""
    ids: Tensor
    """(tokens, 3) zeros."""


@dataclass(frozen=True)
class Step:
    """One call of the transformer."""

    number: int
    """From 0."""
    of: int
    """Steps in all."""
    latents: Tensor
    """(B, N, channels) packed, noisy."""
    ids: Tensor
    """(N, 3) positions."""
    timestep: Tensor
    """(B,) in [0, 1]."""
    guidance: Tensor | None
    text: Text
    negative: bool = False
    """Whether this is the call for the negative prompt."""


Changes = Callable[[Step], Mapping[str, Any]]
"""Arguments of the transformer that a method sets otherwise at a step: `additions`, `hidden_states`, …"""


@dataclass(frozen=True)
class Job:
    """A batch of images to be sampled."""

    prompts: Sequence[str]
    generators: Sequence[Any]
    width: int
    height: int
    steps: int
    guidance: float
    text_length: int = 512
    negatives: Sequence[str] | None = None
    true_guidance: float = 1.0
    """Classifier-free guidance with `negatives`, where above 1: twice the work."""
    seen: int = 1
    """Tokens that the transformer sees over those of the image: the schedule is shifted by what it sees."""


def encode(pipe: Any, prompts: Sequence[str], length: int) -> Text:
    """Prompts through both text encoders, T5's cut or filled to `length` tokens."""
    tokens, pooled, ids = pipe.encode_prompt(
        prompt=list(prompts), prompt_2=None, device=pipe._execution_device, max_sequence_length=length
    )
    return Text(tokens, pooled, ids)


def sample(pipe: Any, job: Job, changes: Changes | None = None) -> Tensor:
    """Packed latents (B, N, channels) of the images."""
    device = pipe._execution_device
    text = encode(pipe, job.prompts, job.text_length)
    negative = None
    if job.true_guidance > 1 and job.negatives is not None:
        negative = encode(pipe, job.negatives, job.text_length)
    latents, ids = pipe.prepare_latents(
        len(job.prompts),
        pipe.transformer.config.in_channels // 4,
        job.height,
        job.width,
        text.tokens.dtype,
        device,
        list(job.generators),
    )
    timesteps = schedule(pipe, job.steps, latents.shape[1] * job.seen)
    guidance = None
    if pipe.transformer.config.guidance_embeds:
        guidance = torch.full([1], job.guidance, device=device, dtype=torch.float32).expand(len(latents))
    for number, t in enumerate(timesteps):
        timestep = t.expand(len(latents)).to(latents.dtype) / 1000
        step = Step(number, len(timesteps), latents, ids, timestep, guidance, text)
        velocity = predict(pipe, step, changes)
        if negative is not None:
            other = Step(number, len(timesteps), latents, ids, timestep, guidance, negative, negative=True)
            away = predict(pipe, other, changes)
            velocity = away + job.true_guidance * (velocity - away)
        dtype = latents.dtype
        latents = pipe.scheduler.step(velocity, t, latents, return_dict=False)[0].to(dtype)
    return latents


def schedule(pipe: Any, steps: int, tokens: int) -> Tensor:
    """Timesteps of the pipeline's scheduler, shifted for an image of so many tokens; the scheduler is set to them."""
    scheduler = pipe.scheduler
    sigmas = None if scheduler.config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
    mu = calculate_shift(
        tokens,
        scheduler.config.get("base_image_seq_len", 256),
        scheduler.config.get("max_image_seq_len", 4096),
        scheduler.config.get("base_shift", 0.5),
        scheduler.config.get("max_shift", 1.15),
    )
    timesteps, _ = retrieve_timesteps(scheduler, steps, pipe._execution_device, sigmas=sigmas, mu=mu)
    scheduler.set_begin_index(0)
    return timesteps


def predict(pipe: Any, step: Step, changes: Changes | None = None) -> Tensor:
    """The velocity (B, N, channels) at a step. What the transformer gives for tokens beyond the image is left out."""
    arguments: dict[str, Any] = {
        "hidden_states": step.latents,
        "timestep": step.timestep,
        "guidance": step.guidance,
        "pooled_projections": step.text.pooled,
        "encoder_hidden_states": step.text.tokens,
        "txt_ids": step.text.ids,
        "img_ids": step.ids,
        "return_dict": False,
    }
    arguments |= changes(step) if changes else {}
    velocity: Tensor = pipe.transformer(**arguments)[0]
    return velocity[:, : step.latents.shape[1]]


def decode(pipe: Any, latents: Tensor, width: int, height: int) -> list[npt.NDArray[np.float32]]:
    """Packed latents to pictures (H, W, 3), float in [0, 1]."""
    unpacked = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
    unpacked = unpacked / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
    image = pipe.vae.decode(unpacked, return_dict=False)[0]
    return list(pipe.image_processor.postprocess(image, output_type="np"))
