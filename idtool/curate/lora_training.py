"""A LoRA on FLUX's attention layers by flow matching, with peft and accelerate (Instruct Identity, stage II).

z_t = (1 - t) z_0 + t ε and the network says the velocity v = ε - z_0, as FLUX does. (The paper prints z_0 - z_t as the
target in equation 2, which is no velocity.) L = mean over the tokens in the mask of |v_θ(z_t, t, c) - v|².

Which sheet, which t and which noise a step sees follows from the seed and the number of the draw alone, so that a
training that was killed goes on from its last checkpoint to the result of one that was not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from idtool.engine.fingerprint import fingerprint
from idtool.generate.flux import latents, sampling

LAYERS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
)
"""Projections of attention, of pictures and of text; single blocks have the first three."""
CHECKPOINT, LOG = "checkpoint.safetensors", "training.jsonl"
STATE = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of a parameter."""
HELD = 64
"""Sheets whose latents and text are kept in memory."""


@dataclass(frozen=True)
class Plan:
    """How a LoRA is trained. JSON-able."""

    steps: int
    rank: int
    learning_rate: float
    weight_decay: float
    batch: int
    """Sheets of a step of the optimiser, one after the other through the network."""
    guidance: float
    """What the network is told in training, where it takes a guidance."""
    text_length: int
    timesteps: Literal["uniform", "logit_normal"]
    masked: bool
    clip: float
    """Greatest norm of the gradient."""
    seed: int


@dataclass(frozen=True, eq=False)
class Example:
    """A sheet as training sees it."""

    image: Any
    """RGB uint8 (H, W, 3), sides multiples of 16."""
    covered: Any
    """(H / 16, W / 16) tokens that count."""
    prompt: str


@dataclass(frozen=True)
class Prepared:
    """An example in the network's terms."""

    clean: Tensor
    """(1, N, channels) packed latents z_0."""
    ids: Tensor
    mask: Tensor
    """(1, N, 1) of 0 and 1."""
    text: sampling.Text


def add_lora(transformer: Any, rank: int, seed: int) -> dict[str, Any]:
    """Put a LoRA of scale 1 on the attention layers, drawn by `seed`; its parameters by name, in float32. Everything
    else is frozen."""
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    transformer.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(LAYERS))
        transformer.add_adapter(config)
    cast_training_params(transformer, dtype=torch.float32)
    return {name: one for name, one in transformer.named_parameters() if one.requires_grad}


def adapter_of(transformer: Any) -> dict[str, Tensor]:
    """The LoRA under the names that diffusers reads: `transformer.<layer>.lora_A.weight`."""
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(transformer)
    return {f"transformer.{name}": one.detach().float().cpu().contiguous() for name, one in state.items()}


def prepared(pipe: Any, example: Example, plan: Plan) -> Prepared:
    """Latents and text of an example, without gradients."""
    with torch.no_grad():
        clean = latents.pack(pipe, latents.encode_images(pipe, [example.image]))
        text = sampling.encode(pipe, [example.prompt], plan.text_length)
    rows, columns = example.covered.shape
    covered = example.covered if plan.masked else np.ones_like(example.covered)
    mask = torch.from_numpy(covered.reshape(1, -1, 1).astype(np.float32)).to(clean.device)
    return Prepared(clean, latents.positions(rows, columns, clean), mask, text)


def draw(plan: Plan, number: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """t (1,) and noise of the draw of that number; on the CPU first, so that every device has the same."""
    generator = torch.Generator().manual_seed(int(fingerprint(plan.seed, "draw", number)[:15], 16))
    t = torch.rand(1, generator=generator)
    if plan.timesteps == "logit_normal":
        t = torch.sigmoid(torch.randn(1, generator=generator))
    noise = torch.randn(like.shape, generator=generator)
    return t.to(like.device), noise.to(like.device, like.dtype)


def flow_loss(transformer: Any, one: Prepared, t: Tensor, noise: Tensor, guidance: float) -> Tensor:
    """Mean over the tokens in the mask of the squared error of the velocity."""
    noisy = (1 - t) * one.clean + t * noise
    told = torch.full((1,), guidance, device=t.device) if transformer.config.guidance_embeds else None
    velocity = transformer(
        hidden_states=noisy.to(one.clean.dtype),
        timestep=t,
        guidance=told,
        pooled_projections=one.text.pooled,
        encoder_hidden_states=one.text.tokens,
        txt_ids=one.text.ids,
        img_ids=one.ids,
        return_dict=False,
    )[0]
    error = (velocity.float() - (noise - one.clean).float()).square()
    return (error * one.mask).sum() / (one.mask.sum() * error.shape[-1])


def order(plan: Plan, count: int, number: int) -> int:
    """Which of `count` examples the draw of that number takes: each once an epoch, in an order drawn for it."""
    epoch, place = divmod(number, count)
    return int(np.random.default_rng([plan.seed, epoch]).permutation(count)[place])


def train(
    pipe: Any,
    examples: Callable[[int], Example],
    count: int,
    plan: Plan,
    folder: Path,
    *,
    data: str,
    accelerator: Any,
    every: int,
    stop_after: int | None = None,
) -> list[float]:
    """Train on `count` examples, or go on from the checkpoint in `folder`; the loss of every step. The LoRA is then on
    `pipe.transformer`.

    `data`: a hash of the examples; a checkpoint of other data or of another plan is thrown away. `every`: steps between
    checkpoints. `stop_after`: leave off after that step, as a kill would.
    """
    folder.mkdir(parents=True, exist_ok=True)
    transformer = pipe.transformer
    parameters = add_lora(transformer, plan.rank, plan.seed)
    optimiser = torch.optim.AdamW(
        list(parameters.values()), lr=plan.learning_rate, weight_decay=plan.weight_decay, betas=(0.9, 0.999)
    )
    key = fingerprint(asdict(plan), data, count)
    start = restore(folder, parameters, optimiser, key)
    losses = _logged(folder, start)
    model, prepared_optimiser = accelerator.prepare(transformer, optimiser)
    model.train()

    @lru_cache(maxsize=HELD)
    def example(number: int) -> Prepared:
        return prepared(pipe, examples(number), plan)

    with (folder / LOG).open("a", encoding="utf-8") as log:
        for step in range(start, plan.steps):
            total = 0.0
            for k in range(plan.batch):
                number = step * plan.batch + k
                one = example(order(plan, count, number))
                t, noise = draw(plan, number, one.clean)
                with accelerator.autocast():
                    loss = flow_loss(transformer, one, t, noise, plan.guidance) / plan.batch
                accelerator.backward(loss)
                total += float(loss.detach())
            if not np.isfinite(total):
                raise FloatingPointError(f"the loss of step {step + 1} is {total}")
            accelerator.clip_grad_norm_(list(parameters.values()), plan.clip)
            prepared_optimiser.step()
            prepared_optimiser.zero_grad()
            losses.append(total)
            log.write(json.dumps({"step": step + 1, "loss": total}) + "\n")
            if (step + 1) % every == 0 or step + 1 == plan.steps:
                log.flush()
                keep(folder, parameters, optimiser, key, step + 1)
            if stop_after is not None and step + 1 >= stop_after:
                break
    model.eval()
    return losses


def keep(folder: Path, parameters: Mapping[str, Any], optimiser: Any, key: str, step: int) -> None:
    """The state after `step`, as one file that is there whole or not at all; no pickle."""
    from safetensors.torch import save_file

    tensors = {}
    for name, one in parameters.items():
        tensors[f"value.{name}"] = one.detach().cpu().contiguous()
        tensors |= {f"{what}.{name}": torch.as_tensor(optimiser.state[one][what]).detach().cpu() for what in STATE}
    temporary = folder / f".{CHECKPOINT}"
    save_file(tensors, temporary, metadata={"key": key, "step": str(step)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(folder / CHECKPOINT)


def restore(folder: Path, parameters: Mapping[str, Any], optimiser: Any, key: str) -> int:
    """Put parameters and optimiser where the checkpoint has them; the steps that are done, 0 where there is none of
    this training."""
    from safetensors import safe_open

    path = folder / CHECKPOINT
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        told = file.metadata() or {}
        if told.get("key") != key:
            return 0
        with torch.no_grad():
            for name, one in parameters.items():
                one.copy_(file.get_tensor(f"value.{name}"))
                # AdamW counts its steps on the CPU.
                optimiser.state[one] = {
                    what: file.get_tensor(f"{what}.{name}").to("cpu" if what == "step" else one.device)
                    for what in STATE
                }
    return int(told["step"])


def _logged(folder: Path, steps: int) -> list[float]:
    """The losses of the first steps; what was logged after the checkpoint is taken out of the log."""
    path = folder / LOG
    lines = path.read_text("utf-8").splitlines()[:steps] if path.is_file() and steps else []
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return [float(json.loads(line)["loss"]) for line in lines]
