"""UNO and ACE++: their LoRAs name by name, and what they do against stock parts with the LoRA by peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.operator import Context, Rejected
from idtool.errors import MissingError
from idtool.generate.requests import Wish
from idtool.models.sources import Weights
from tests.generate.made import run
from tests.generate.stock_runs import (
    CLOSE,
    FLUX,
    FLUX_CHECKPOINTS,
    apart,
    called,
    checkpoints,
    images,
    made,
    person,
    pipelines,
    ready_flux,
    request,
    tiny,
)
from tests.zoo import Zoo, adapters
from tests.zoo.weights import low_rank

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")

mirror = checkpoints(*FLUX_CHECKPOINTS)


def test_uno_sees_its_references_on_the_diagonal() -> None:
    from idtool.generate.uno import diagonal

    assert diagonal((32, 32), [(32, 24), (20, 10)]) == [(32, 32), (64, 56)]
    method = ready_flux("uno")
    seen = []
    transformer = method.pipe.transformer
    handle = transformer.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs), with_kwargs=True)
    people = (person(1, (128, 96)), person(2, (64, 128)))
    images(method, request(method, "two", 0, *people))
    handle.remove()
    ids = seen[0]["img_ids"].to(torch.int64)
    assert ids.shape == (16 + 12 + 8, 3)
    assert ids[:16].tolist() == [[0, y, x] for y in range(4) for x in range(4)]
    assert ids[16:28].tolist() == [[0, 4 + y, 4 + x] for y in range(3) for x in range(4)]
    assert ids[28:].tolist() == [[0, 7 + y, 8 + x] for y in range(4) for x in range(2)]
    assert seen[0]["hidden_states"].shape[1] == 36
    with pytest.raises(Rejected, match="too thin"):
        method.check(request(method, "a man", 0, person(1, (1000, 10))))


def test_uno_is_the_stock_transformer_with_the_lora_by_peft(tiny: Zoo) -> None:
    """The method's call, written anew on stock parts: `load_lora_weights` and tokens behind those of the image."""
    pytest.importorskip("peft", reason="what is compared with")
    from diffusers import FluxPipeline

    from idtool.generate.flux import latents, sampling

    method = ready_flux("uno")
    somebody = person(1, (128, 96))
    [image] = images(method, request(method, "a man", 5, somebody))
    pipe = FluxPipeline.from_pretrained(tiny.mirror / "tiny" / "flux", local_files_only=True)
    pipe.load_lora_weights(str(tiny.mirror / "tiny" / "uno"), weight_name="dit_lora.safetensors", local_files_only=True)
    pipe.scheduler = method.pipe.scheduler
    with torch.inference_mode():
        from idtool.generate.layouts import uno_reference

        reference = latents.pack(pipe, latents.encode_images(pipe, [uno_reference(somebody.image, 64)]))
        generators = [torch.Generator().manual_seed(5)]
        job = sampling.Job(["a man"], generators, 64, 64, steps=2, guidance=4.0, text_length=32)
        out = sampling.sample(
            pipe,
            job,
            lambda step: {
                "hidden_states": torch.cat([step.latents, reference], dim=1),
                "img_ids": torch.cat([step.ids, latents.positions(3, 4, step.ids, (4, 4))]),
            },
        )
        expected = sampling.decode(pipe, out, 64, 64)[0]
    assert apart(image, (expected * 255).round().astype(np.uint8)) <= CLOSE


def test_uno_shifts_its_schedule_as_its_authors_do() -> None:
    from idtool.generate.flux import sampling

    method = ready_flux("uno")
    # Their code: 512 px count as 16 tokens, where 0.5 at 256 and 1.15 at 4096 are on a line.
    mu = 0.5 + (16 - 256) * (1.15 - 0.5) / (4096 - 256)
    t = torch.linspace(1, 0, 6)[:-1]
    expected = np.exp(mu) / (np.exp(mu) + (1 / t - 1))
    assert torch.allclose(sampling.schedule(method.pipe, 5, 1024) / 1000, expected, atol=1e-4)
    plain = ready_flux("uno", schedule="flux")
    assert sampling.schedule(plain.pipe, 5, 1024)[1] > sampling.schedule(method.pipe, 5, 1024)[1]


@pytest.fixture(scope="module")
def flux_dev() -> Any:
    """FLUX.1-dev's transformer without its weights."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        return FluxTransformer2DModel(guidance_embeds=True)


def test_published_names_of_uno_and_ace_convert_completely(flux_dev: Any) -> None:
    from idtool.generate.flux.lora import lora_of
    from idtool.generate.flux_loras import converted

    uno = low_rank(adapters.xlabs_layers(19, 38, 3072), "down.weight", "up.weight", 1)
    found = lora_of(converted(uno, "UNO"), flux_dev, "UNO")
    # Eight linear layers of attention in 19 double blocks, four in 38 single ones.
    assert len(found.layers) == 19 * 8 + 38 * 4
    assert set(found.scales.values()) == {1.0}
    layers = adapters.kohya_layers(19, 38, 3072, fused=True)
    ace = converted(adapters.kohya_state(layers, 1, alpha=1.0), "ACE++")
    found = lora_of(ace, flux_dev, "ACE++")
    assert len(found.layers) == 19 * 14 + 38 * 6
    # q, k and v come from one matrix: a third of it each.
    state = adapters.kohya_state(layers, 1, alpha=0.5)
    name = "lora_unet_double_blocks_7_img_attn_qkv"
    whole = 0.5 * state[f"{name}.lora_up.weight"] @ state[f"{name}.lora_down.weight"]
    split = converted(state, "ACE++")
    parts = [
        split[f"transformer.transformer_blocks.7.attn.{one}.lora_B.weight"]
        @ split[f"transformer.transformer_blocks.7.attn.{one}.lora_A.weight"]
        for one in ("to_q", "to_k", "to_v")
    ]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"single_blocks.0.processor.odd.weight": (4, 32)}, "keys that are no LoRA's"),
        ({"double_blocks.9.processor.proj_lora1.down.weight": (4, 32)}, "layers that the base model has not"),
        ({"double_blocks.0.processor.proj_lora1.down.weight": (4, 8)}, "layers of another shape"),
        ({"double_blocks.0.processor.qkv_lora1.up.weight": None}, "cannot be loaded"),
        ({"double_blocks.0.processor.proj_lora2.up.weight": None}, "layers with half a pair"),
    ],
)
def test_a_lora_with_strange_or_missing_names_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from idtool.generate.flux_loras import flux_lora

    state = low_rank(adapters.xlabs_layers(), "down.weight", "up.weight")
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.zeros(shape)
    save_file(state, tmp_path / "lora.safetensors")
    with pytest.raises(MissingError, match=says):
        flux_lora(Weights("local:lora", tmp_path / "lora.safetensors"), ready_flux("uno").pipe.transformer)


@pytest.mark.offline_weights
def test_a_lora_that_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    kind, models, own = FLUX["ace"]
    lost = {**models, "adapter": tiny("ace-plus", "portrait/none.safetensors")}
    config = pipelines(tmp_path, kind, lost, **own)
    with pytest.raises(MissingError, match=r"portrait/none\.safetensors"):
        run("tiny", [Wish("a man", ("/x.png",))], tmp_path / "run", config=config)
    method = made(kind, {**models, "adapter": tiny("ace-plus")}, **own)
    with pytest.raises(MissingError, match="option `file`"):
        method.load(Context(str(tmp_path), 0, "cpu"))


def test_ace_is_the_fill_pipeline_with_the_lora_by_peft(tiny: Zoo) -> None:
    pytest.importorskip("peft", reason="what is compared with")
    from diffusers import FluxFillPipeline
    from PIL import Image

    method = ready_flux("ace", instruction="Keep the face.")
    somebody = person(1, (96, 128))
    one = request(method, "a man", 5, somebody, width=96, height=64)
    [image] = images(method, one)
    pipe = FluxFillPipeline.from_pretrained(tiny.mirror / "tiny" / "flux-fill", local_files_only=True)
    folder = tiny.mirror / "tiny" / "ace-plus"
    pipe.load_lora_weights(
        str(folder), weight_name="portrait/comfyui_portrait_lora64.safetensors", local_files_only=True
    )
    left = Image.fromarray(somebody.image).resize((48, 64), Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (144, 64))
    canvas.paste(left, (0, 0))
    mask = Image.new("L", (144, 64))
    mask.paste(255, (48, 0, 144, 64))
    whole = called(
        pipe,
        5,
        prompt="Keep the face. a man",
        image=canvas,
        mask_image=mask,
        width=144,
        guidance_scale=50,
        max_sequence_length=64,
    )
    expected = Image.fromarray(whole).crop((48 + 30, 0, 144, 64)).resize((96, 64))
    assert apart(image, np.asarray(expected)) <= CLOSE
    assert method.generate([one])[0].facts["canvas"] == [144, 64]


def test_ace_refuses_a_canvas_without_room_for_the_image() -> None:
    method = ready_flux("ace")
    with pytest.raises(Rejected) as caught:
        method.check(request(method, "a man", 0, width=32, height=64))
    assert caught.value.reason == "request.layout"


def test_the_mark_for_pictures_is_a_token_where_there_is_room() -> None:
    from idtool.generate.ace_plus import MARK, with_mark
    from tests.zoo.flux import t5_tokenizer

    for room in (0, 1):
        tokenizer = t5_tokenizer()
        count = len(tokenizer)
        with_mark(tokenizer, count + room)
        assert len(tokenizer) == count + room
        assert (tokenizer.convert_tokens_to_ids(MARK) == count) == bool(room)
        if room:
            assert count in tokenizer("a doodle {image} here").input_ids
