"""The FLUX runtime against diffusers' own code, on a tiny random FLUX: what must be the same to the last bit is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from idtool.errors import MissingError
from idtool.models.sources import Weights
from tests.zoo import Zoo
from tests.zoo import flux as tiny_flux

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")

from idtool.generate.flux import attention, latents, sampling  # noqa: E402
from idtool.generate.flux.attention import Fold, Part, Site, View  # noqa: E402
from idtool.generate.flux.lora import Lora, lora_of, switched_on  # noqa: E402
from idtool.generate.flux.method import load_transformer  # noqa: E402
from idtool.generate.flux.transformer import Additions, Condition  # noqa: E402

PROMPTS = ["a man in the rain", "a woman at sea", "two dogs", "a red house by a lake"]
GRID = (3, 2)


@pytest.fixture(scope="module")
def pipe(zoo: Zoo) -> Any:
    """A tiny FLUX.1-dev whose transformer takes additions."""
    from diffusers import FluxPipeline

    folder = zoo("flux")
    transformer = load_transformer(Weights("local:flux", folder), "float32")
    pipe = FluxPipeline.from_pretrained(folder, transformer=transformer, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def lora(pipe: Any) -> Iterator[Lora]:
    """A LoRA on the transformer, switched off."""
    made = lora_of(tiny_flux.lora_state(tiny_flux.lora_layers(*tiny_flux.OMINI)), pipe.transformer, "a file")
    handles = made.attach(pipe.transformer)
    yield made
    for handle in handles:
        handle.remove()


def job(count: int = 1, **changes: Any) -> sampling.Job:
    made = sampling.Job(
        prompts=PROMPTS[:count],
        generators=[torch.Generator().manual_seed(7 + k) for k in range(count)],
        width=64,
        height=48,
        steps=2,
        guidance=3.5,
        text_length=32,
    )
    return replace(made, **changes)


def run(pipe: Any, additions: Additions | None, count: int = 1, **changes: Any) -> Any:
    """Latents with some additions at every step."""
    with torch.inference_mode():
        extra = {} if additions is None else {"additions": additions}
        return sampling.sample(pipe, job(count, **changes), lambda _: extra)


def condition(batch: int = 1, shift: tuple[int, int] = (0, -2), seed: int = 0, **changes: Any) -> Condition:
    tokens = torch.randn(batch, GRID[0] * GRID[1], 64, generator=torch.Generator().manual_seed(seed))
    return Condition(tokens, latents.positions(*GRID, tokens, shift), GRID, **changes)


@pytest.mark.parametrize("additions", [None, Additions()], ids=["stock forward", "own forward"])
def test_without_additions_it_is_diffusers_to_the_last_bit(pipe: Any, additions: Additions | None) -> None:
    with torch.inference_mode():
        theirs = pipe(
            PROMPTS[:2],
            width=64,
            height=48,
            num_inference_steps=2,
            guidance_scale=3.5,
            generator=[torch.Generator().manual_seed(7 + k) for k in range(2)],
            max_sequence_length=32,
            output_type="np",
        ).images
        ours = sampling.decode(pipe, run(pipe, additions, 2), 64, 48)
    assert np.array_equal(np.stack(ours), theirs)


def test_true_guidance_is_diffusers_own(pipe: Any) -> None:
    with torch.inference_mode():
        theirs = pipe(
            PROMPTS[:1],
            negative_prompt=["blurred"],
            true_cfg_scale=2.0,
            width=64,
            height=48,
            num_inference_steps=2,
            guidance_scale=3.5,
            generator=[torch.Generator().manual_seed(7)],
            max_sequence_length=32,
            output_type="latent",
        ).images
    assert torch.equal(run(pipe, None, negatives=["blurred"], true_guidance=2.0), theirs)


def test_controlnet_residuals_are_added_as_diffusers_does(pipe: Any) -> None:
    residuals = [torch.randn(1, 12, tiny_flux.WIDTH, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    found = []
    for additions in (None, Additions()):

        def changes(_: Any, additions: Any = additions) -> dict[str, Any]:
            return {
                "controlnet_block_samples": residuals[:1],
                "controlnet_single_block_samples": residuals,
                **({} if additions is None else {"additions": additions}),
            }

        with torch.inference_mode():
            found.append(sampling.sample(pipe, job(), changes))
    assert torch.equal(*found)
    assert not torch.equal(found[0], run(pipe, None))


def test_a_condition_changes_the_image_and_a_hidden_one_does_not(pipe: Any, lora: Lora) -> None:
    stock = run(pipe, None)
    shown = Additions(conditions=[condition(loras=(lora,))])
    assert (run(pipe, shown) - stock).abs().max() > 1e-3

    def apart(_: Site) -> list[View]:
        own = ("condition.0",)
        return [View(("text", "image"), ("text", "image")), View(own, (*own, "text", "image"))]

    assert torch.equal(run(pipe, replace(shown, views=apart)), stock)
    for explicit in (False, True):

        def hidden(_: Site, queries: Any) -> Fold:
            return attention.between(-3e4, ["text", "image"], ["condition.0"], queries)

        masked = run(pipe, replace(shown, bias=hidden, explicit=explicit))
        assert (masked - stock).abs().max() < 1e-5


def test_conditions_have_their_own_time_and_positions(pipe: Any) -> None:
    clean = run(pipe, Additions(conditions=[condition()]))
    assert not torch.equal(run(pipe, Additions(conditions=[condition(timestep=0.9)])), clean)
    assert not torch.equal(run(pipe, Additions(conditions=[condition(guidance=3.5)])), clean)
    assert not torch.equal(run(pipe, Additions(conditions=[condition(shift=(0, 32))])), clean)
    ids = latents.positions(2, 3, torch.zeros(1), (1, -3))
    assert ids.tolist() == [[0, 1, -3], [0, 1, -2], [0, 1, -1], [0, 2, -3], [0, 2, -2], [0, 2, -1]]


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_bias_inside_queries_and_keys_is_the_mask_in_full(pipe: Any, lora: Lora, value: float) -> None:
    def bias(_: Site, queries: Any) -> Fold:
        return attention.between(value, ["text", "image"], ["condition.0"], queries)

    plain = Additions(conditions=[condition(loras=(lora,))])
    folded, full = (run(pipe, replace(plain, bias=bias, explicit=explicit)) for explicit in (False, True))
    assert (folded - full).abs().max() < 1e-5
    difference = (folded - run(pipe, plain)).abs().max()
    assert difference < 1e-5 if value == 0 else difference > 1e-3


def test_folds_of_any_rank_are_exact_and_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn: Callable[..., Any] = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    names, sizes = ("text", "image"), (5, 7)
    query, key, value = ([Part(names, sizes, drawn(2, 12, 3, 16))] for _ in range(3))
    folds = [
        Fold(
            {name: drawn(batch, size, rank) for name, size in zip(names, sizes, strict=True)},
            {name: drawn(batch, size, rank) for name, size in zip(names, sizes, strict=True)},
        )
        for batch, rank in ((2, 2), (1, 3), (2, 5))
    ]
    total = attention.added([*folds, None])
    assert total is not None
    matrix = sum(fold.matrix(names, names) for fold in folds)
    assert torch.allclose(total.matrix(names, names), matrix, atol=1e-5)
    views = [View(names, names)]
    inside, full = (attention.attend(query, key, value, views, total, explicit=explicit) for explicit in (False, True))
    logits = torch.einsum("bqhd,bkhd->bhqk", query[0].tensor, key[0].tensor) / 4 + matrix
    by_hand = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), value[0].tensor).flatten(2)
    for found in (inside, full):
        assert torch.allclose(torch.cat([found["text"], found["image"]], 1), by_hand, atol=1e-5)
    share = attention.share_of_keys(query[0].tensor, key[0].tensor, 5, matrix)
    assert torch.allclose(share, logits.softmax(-1)[..., 5:].sum(-1), atol=1e-6)


def test_a_bool_mask_and_a_bias_go_together() -> None:
    generator = torch.Generator().manual_seed(0)
    part = Part(("image",), (4,), torch.randn(1, 4, 1, 8, generator=generator))
    bias = attention.between(0.5, ["image"], ["other"], {"image": part.tensor})
    mask = torch.eye(4, dtype=torch.bool)
    for explicit in (False, True):
        view = View(("image",), ("image",), mask)
        out = attention.attend([part], [part], [part], [view], bias, explicit=explicit)["image"]
        assert torch.allclose(out, part.tensor.flatten(2), atol=1e-6)


def test_several_conditions_do_not_see_each_other(pipe: Any) -> None:
    first, second, third = (condition(seed=seed, shift=(0, 4 * seed + 4)) for seed in range(3))
    seen: dict[str, list[Any]] = {}

    def watch(_: Site, queries: Any) -> None:
        for name, tensor in queries.items():
            seen.setdefault(name, []).append(tensor)

    run(pipe, Additions(conditions=[first, second], bias=watch), steps=1)
    one, seen = seen, {}
    run(pipe, Additions(conditions=[first, third], bias=watch), steps=1)
    # After one block the second condition has reached the image; the first has not met it.
    assert torch.equal(one["condition.0"][1], seen["condition.0"][1])
    assert not torch.equal(one["image"][1], seen["image"][1])


def test_independent_conditions_are_computed_once(pipe: Any, lora: Lora) -> None:
    conditions = [condition(seed=seed, shift=(0, 4 * seed + 4), loras=(lora,)) for seed in range(2)]
    plain = run(pipe, Additions(conditions=conditions, independent=True), steps=3)
    kept: dict[Any, Any] = {}
    stored = run(pipe, Additions(conditions=conditions, independent=True, kept=kept), steps=3)
    assert len(kept) == tiny_flux.DOUBLES + tiny_flux.SINGLES
    assert torch.equal(stored, plain)
    assert not torch.allclose(plain, run(pipe, Additions(conditions=conditions), steps=3))


def test_a_lora_is_for_the_tokens_that_switch_it_on(pipe: Any, lora: Lora) -> None:
    layer = pipe.transformer.transformer_blocks[0].attn.to_q
    x = torch.randn(2, 5, tiny_flux.WIDTH, generator=torch.Generator().manual_seed(0))
    pair = lora.get_submodule("transformer_blocks.0.attn.to_q")
    plain = layer(x)
    with switched_on([lora]):
        assert torch.allclose(layer(x), plain + pair.lora_B(pair.lora_A(x)), atol=1e-6)
    with switched_on([lora], torch.tensor([1.0, 0, 0.5, 0, 0])[:, None]):
        half = layer(x)
    assert torch.allclose(half[:, 2], plain[:, 2] + 0.5 * pair.lora_B(pair.lora_A(x))[:, 2], atol=1e-6)
    assert torch.equal(half[:, 1], plain[:, 1])
    assert torch.equal(layer(x), plain)
    # Off everywhere, nothing changes; on for text and image, all does; text and image off and the condition on differ.
    assert torch.equal(run(pipe, Additions()), run(pipe, None))
    assert not torch.allclose(run(pipe, Additions(loras=(lora,))), run(pipe, None))
    off, on = (run(pipe, Additions(conditions=[condition(loras=loras)])) for loras in ((), (lora,)))
    assert not torch.allclose(off, on)


def test_a_lora_on_everything_is_the_one_of_peft(pipe: Any, lora: Lora, tmp_path: Any, zoo: Zoo) -> None:
    pytest.importorskip("peft")
    from diffusers import FluxPipeline
    from safetensors.torch import save_file

    save_file(tiny_flux.lora_state(tiny_flux.lora_layers(*tiny_flux.OMINI)), tmp_path / "lora.safetensors")
    theirs = FluxPipeline.from_pretrained(zoo("flux"), local_files_only=True)
    theirs.load_lora_weights(str(tmp_path), weight_name="lora.safetensors", local_files_only=True)
    assert torch.allclose(run(pipe, Additions(loras=(lora,))), run(theirs, None), atol=1e-4)


def test_block_hooks_reach_the_image_tokens_alone(pipe: Any) -> None:
    shapes = []

    def hook(image: Any) -> Any:
        shapes.append(tuple(image.shape))
        return torch.zeros_like(image)

    sites = [Site("double", 0), Site("single", 1)]
    with torch.inference_mode():
        assert torch.equal(run(pipe, Additions(hooks=dict.fromkeys(sites, hook))), run(pipe, None))
    assert shapes == [(1, 12, tiny_flux.WIDTH)] * 4
    changed = run(pipe, Additions(hooks={sites[1]: lambda image: 0.5 * image}))
    assert not torch.allclose(changed, run(pipe, None))


def test_a_batch_is_its_images_one_by_one(pipe: Any, lora: Lora) -> None:
    batch = condition(4, loras=(lora,))
    together = run(pipe, Additions(conditions=[batch]), 4)
    for k in range(4):
        alone = job(4)
        alone = replace(alone, prompts=alone.prompts[k : k + 1], generators=alone.generators[k : k + 1])
        one = replace(batch, tokens=batch.tokens[k : k + 1])
        with torch.inference_mode():
            single = sampling.sample(pipe, alone, lambda _, one=one: {"additions": Additions(conditions=[one])})
        assert (single - together[k : k + 1]).abs().max() < 2e-5


def test_gradients_reach_a_lora_with_and_without_checkpointing(pipe: Any, lora: Lora) -> None:
    from idtool.generate.flux.transformer import BranchTransformer

    transformer = BranchTransformer(**tiny_flux.sizes())
    mine = lora_of(tiny_flux.lora_state(tiny_flux.lora_layers("attn.to_q")), transformer, "a file")
    mine.attach(transformer)
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            transformer.enable_gradient_checkpointing()
        mine.zero_grad()
        generator = torch.Generator().manual_seed(0)
        out = transformer(
            hidden_states=torch.randn(1, 4, 64, generator=generator),
            encoder_hidden_states=torch.randn(1, 3, tiny_flux.WIDTH, generator=generator),
            pooled_projections=torch.randn(1, tiny_flux.WIDTH, generator=generator),
            timestep=torch.tensor([0.5]),
            guidance=torch.tensor([1.0]),
            img_ids=latents.positions(2, 2, torch.zeros(1)),
            txt_ids=torch.zeros(3, 3),
            additions=Additions(conditions=[condition(loras=(mine,))]),
        )[0]
        out.square().mean().backward()
        found.append([tensor.grad.clone() for tensor in mine.parameters()])
    assert all(tensor.abs().sum() > 0 for tensor in found[0][:2])
    assert all(torch.allclose(*pair, atol=1e-7) for pair in zip(*found, strict=True))


def test_layouts_on_one_canvas_are_tokens_with_further_columns(pipe: Any) -> None:
    """Side by side in the latents (Instruct Identity) is the same as appended tokens with columns W, W + 1, …"""
    generator = torch.Generator().manual_seed(0)
    target, reference = (torch.randn(1, 16, 6, 8, generator=generator) for _ in range(2))
    canvas = pipe._pack_latents(torch.cat([target, reference], dim=3), 1, 16, 6, 16)
    ids = latents.positions(3, 8, canvas)
    appended = torch.cat([latents.pack(pipe, target), latents.pack(pipe, reference)], dim=1)
    with torch.inference_mode():
        text = sampling.encode(pipe, PROMPTS[:1], 32)
        step = sampling.Step(0, 1, canvas, ids, torch.tensor([0.5]), torch.tensor([3.5]), text)
        whole = sampling.predict(pipe, step).reshape(1, 3, 8, 64)[:, :, :4].reshape(1, 12, 64)
        both = torch.cat([latents.positions(3, 4, canvas), latents.positions(3, 4, canvas, (0, 4))])
        part = replace(step, latents=appended[:, :12], ids=both[:12])
        found = sampling.predict(pipe, part, lambda _: {"hidden_states": appended, "img_ids": both})
    assert (found - whole).abs().max() < 1e-5


def test_half_precision_runs(pipe: Any) -> None:
    from idtool.generate.flux.transformer import BranchTransformer

    transformer = BranchTransformer(**tiny_flux.sizes()).to(torch.bfloat16).eval()
    one = condition()
    one = replace(one, tokens=one.tokens.bfloat16())
    with torch.inference_mode():
        out = transformer(
            hidden_states=torch.zeros(1, 4, 64, dtype=torch.bfloat16),
            encoder_hidden_states=torch.zeros(1, 3, tiny_flux.WIDTH, dtype=torch.bfloat16),
            pooled_projections=torch.zeros(1, tiny_flux.WIDTH, dtype=torch.bfloat16),
            timestep=torch.tensor([0.5]),
            guidance=torch.tensor([1.0]),
            img_ids=latents.positions(2, 2, torch.zeros(1)),
            txt_ids=torch.zeros(3, 3),
            additions=Additions(
                conditions=[one], bias=lambda _, q: attention.between(0.3, ["text", "image"], ["condition.0"], q)
            ),
        )[0]
    assert out.dtype == torch.bfloat16
    assert torch.isfinite(out).all()


def test_lora_files_are_accounted_for_key_by_key(pipe: Any) -> None:
    state = tiny_flux.lora_state(tiny_flux.lora_layers("attn.to_q"))
    layers = list(tiny_flux.lora_layers("attn.to_q"))
    assert lora_of(state, pipe.transformer, "a file").layers == layers
    bare = {key.removeprefix("transformer."): tensor for key, tensor in state.items()}
    peft = {f"base_model.model.{key.replace('.weight', '.default.weight')}": tensor for key, tensor in bare.items()}
    alphas = {f"transformer.{layer}.alpha": torch.tensor(2.0) for layer in layers}
    for other in (bare, peft, state | alphas):
        made = lora_of(other, pipe.transformer, "a file")
        assert torch.equal(made.state_dict()[f"{layers[0]}.lora_A.weight"], bare[f"{layers[0]}.lora_A.weight"])
    assert set(made.scales.values()) == {0.5}
    assert set(lora_of(state, pipe.transformer, "a file", alpha=8).scales.values()) == {2.0}

    first = f"transformer.{layers[0]}.lora_A.weight"
    for broken, said in (
        (state | {"transformer.odd": torch.zeros(1)}, "1 keys that are no LoRA's (transformer.odd)"),
        ({key: tensor for key, tensor in state.items() if key != first}, "half a pair (transformer_blocks.0.attn.to"),
        (state | {first: torch.zeros(4, 8)}, "another shape (transformer_blocks.0.attn.to_q (32, 4) · (4, 8) on (32"),
        (
            state | {f"transformer.mid.0.lora_{side}.weight": torch.zeros(4, 4) for side in "AB"},
            "layers that the base model has not (mid.0)",
        ),
        ({}, "holds no LoRA"),
    ):
        with pytest.raises(MissingError) as caught:
            lora_of(broken, pipe.transformer, "a file")
        assert said in str(caught.value)


def test_a_base_that_is_no_flux_is_refused(zoo: Zoo, tmp_path: Any) -> None:
    with pytest.raises(MissingError, match=r"takes 384 channels a token and gives 64"):
        load_transformer(Weights("local:fill", zoo("flux-fill")), "float32")
    with pytest.raises(MissingError, match=r"it has no transformer/config\.json"):
        load_transformer(Weights("local:none", tmp_path), "float32")
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "SD3Transformer2DModel"}')
    with pytest.raises(MissingError, match="its transformer is a SD3Transformer2DModel"):
        load_transformer(Weights("local:sd3", tmp_path), "float32")
