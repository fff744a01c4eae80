"""IP-Adapter-FaceID, Plus, PlusV2 and Portrait on tiny SD1.5 and SDXL: LoRAs, tokens, boxes, batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from idtool.engine.operator import Rejected
from idtool.generate.requests import Wish
from tests.generate.made import run, table
from tests.generate.stock_runs import (
    CLOSE,
    FACEID,
    FACEID_CHECKPOINTS,
    FACEID_FILES,
    agrees,
    apart,
    checkpoints,
    faceid_models,
    images,
    loaded,
    person,
    pipelines,
    ready_faceid,
    request,
    tiny,
)
from tests.zoo import Zoo
from tests.zoo.pipelines import TEXT

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")
pytestmark = pytest.mark.offline_weights

CASES = [("sd15", "faceid"), ("sd15", "portrait"), ("sdxl", "plusv2")]

mirror = checkpoints(*FACEID_CHECKPOINTS)


@pytest.mark.parametrize(("base", "variant"), CASES)
def test_a_run_with_photos(base: str, variant: str, fixtures: Path, tmp_path: Path) -> None:
    photos = [str(fixtures / "identities" / name / "00_face_recognition.jpg") for name in ("obama", "biden")]
    config = pipelines(tmp_path, FACEID, faceid_models(base, variant), variant=variant)
    wishes = [
        Wish("a man", (photos[0],), n=2),
        Wish("a dog", (str(fixtures / "hard" / "dog.jpg"),)),
        Wish("two men", tuple(photos), ("obama", "biden")),
        Wish("two men in boxes", tuple(photos), boxes=((0, 0, 0.5, 1), (0.5, 0, 1, 1))),
    ]
    run("tiny", wishes, tmp_path / "run", config=config)
    rows = {(row["prompt"], row["seed"]): row for row in table(tmp_path / "run")}
    assert rows["a man", 0]["status"] == rows["a man", 1]["status"] == "kept"
    assert rows["a man", 0]["media"] != rows["a man", 1]["media"]
    told = json.loads(rows["a man", 0]["preprocessing"])
    assert told["face"]["model"] == "arcface-mbf"
    assert ("vision" in told) == variant.startswith("plus")
    assert rows["a dog", 0]["reason"] == "reference.no_face"
    if variant == "portrait":
        assert json.loads(rows["a man", 0]["facts"])["faces"] == {"pictures": 1, "vectors": 5}
        assert rows["two men", 0]["reason"] == "request.people"
        assert rows["two men in boxes", 0]["reason"] == "request.boxes"
    else:
        assert rows["two men", 0]["reason"] == "request.boxes"
        assert rows["two men in boxes", 0]["status"] == "kept"


@pytest.mark.parametrize(("base", "variant"), CASES)
def test_a_batch_of_four_is_four_singles(base: str, variant: str) -> None:
    method = ready_faceid(base, variant)
    agrees(method, *(request(method, f"prompt {k}", k, person(10 + k)) for k in range(4)))


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
@pytest.mark.parametrize("variant", ["faceid", "plusv2", "portrait"])
def test_it_is_what_diffusers_does_with_the_file(base: str, variant: str, tiny: Zoo) -> None:
    """The documented calls: `load_ip_adapter`, with the LoRA by peft, embeddings of nobody and somebody."""
    pytest.importorskip("peft", reason="what is compared with")
    from diffusers import DiffusionPipeline

    from idtool.generate.ip_adapter import ddim

    method = ready_faceid(base, variant)
    somebody = person(4)
    [image] = images(method, request(method, "a man", 2, somebody, negative="fog", scale=0.7))
    extra = {"safety_checker": None} if base == "sd15" else {"add_watermarker": False}
    pipe = DiffusionPipeline.from_pretrained(tiny.mirror / "tiny" / base, local_files_only=True, **extra)
    pipe.load_ip_adapter(
        str(tiny.mirror / "tiny" / f"faceid-{base}"),
        subfolder=None,
        weight_name=f"{FACEID_FILES[variant]}_{base}.bin",
        image_encoder_folder=None,
        local_files_only=True,
    )
    pipe.scheduler = ddim()
    pipe.set_ip_adapter_scale(0.7)
    vector = torch.from_numpy(method.face.raw([somebody]))
    vector = (vector / vector.norm())[None]
    count = 5 if variant == "portrait" else 1
    embeds = torch.cat([torch.zeros(1, count, 512), vector.expand(1, count, 512)])
    if variant == "plusv2":
        projection = pipe.unet.encoder_hid_proj.image_projection_layers[0]
        shown = method.face.crops([somebody], 224)
        with torch.inference_mode():
            views = [method.tower.nothing(), method.tower.hidden(shown)]
        projection.clip_embeds = torch.stack(views)
        projection.shortcut = True
    with torch.inference_mode():
        out = pipe(
            "a man",
            negative_prompt="fog",
            ip_adapter_image_embeds=[embeds],
            num_inference_steps=2,
            guidance_scale=7.5,
            width=64,
            height=64,
            output_type="np",
            generator=torch.Generator().manual_seed(2),
        ).images[0]
    assert apart(image, np.clip(out * 255, 0, 255).round().astype(np.uint8)) <= CLOSE


def test_portrait_has_eighty_tokens() -> None:
    method = ready_faceid("sd15", "portrait")
    seen = []
    handle = method.pipe.unet.encoder_hid_proj.register_forward_hook(lambda _, __, out: seen.append(out[0]))
    shown = tuple(person(k, label="obama") for k in range(2))
    images(method, request(method, "a man", 0, *shown))
    handle.remove()
    # For nobody and somebody, five vectors of sixteen tokens each; two pictures are taken in turn.
    assert seen[0].shape == (2, 5, 16, TEXT)
    first = seen[0][1]
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[1], first[3])
    assert not torch.allclose(first[0], first[1])
    assert method.generate([request(method, "a man", 0, *shown)])[0].facts["faces"] == {"pictures": 2, "vectors": 5}


def test_scale_nought_is_the_base_alone(tiny: Zoo) -> None:
    from diffusers import StableDiffusionPipeline

    from idtool.generate.ip_adapter import ddim

    method = ready_faceid("sd15", "portrait")
    [image] = images(method, request(method, "a man", 2, scale=0, negative="fog"))
    folder = tiny.mirror / "tiny" / "sd15"
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipe.scheduler = ddim()
    generator = torch.Generator().manual_seed(2)
    with torch.inference_mode():
        out = pipe(
            "a man",
            negative_prompt="fog",
            num_inference_steps=2,
            width=64,
            height=64,
            output_type="np",
            generator=generator,
        ).images[0]
    assert np.array_equal(image, np.clip(out * 255, 0, 255).round().astype(np.uint8))


def test_plus_and_plusv2_differ_by_the_shortcut() -> None:
    plus, second = ready_faceid("sd15", "plus"), ready_faceid("sd15", "plusv2")
    [one] = images(plus, request(plus, "a man", 0))
    [two] = images(second, request(second, "a man", 0))
    [three] = images(second, request(second, "a man", 0, structure=0.2))
    assert min(apart(one, two), apart(two, three)) > CLOSE


def test_boxes_hold_each_person() -> None:
    method = ready_faceid("sd15", "faceid")
    whole, nothing = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 1e-6, 1e-6)
    [alone] = images(method, request(method, "two", 0, person(1)))
    # One has the whole frame, the other nothing of it: the first alone.
    hidden = request(method, "two", 0, person(1, box=whole), person(2, box=nothing))
    [masked] = images(method, hidden)
    assert apart(alone, masked) <= CLOSE
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    ordered = request(method, "two", 0, person(1, box=left), person(2, box=right))
    turned = request(method, "two", 0, person(2, box=right), person(1, box=left))
    crossed = request(method, "two", 0, person(2, box=left), person(1, box=right))
    found = images(method, ordered, turned, crossed)
    assert apart(found[0], found[1]) <= CLOSE, "the order of people does not matter, their boxes do"
    assert apart(found[0], found[2]) > CLOSE
    # Two layouts in one batch are two calls.
    agrees(method, ordered, crossed, request(method, "two", 5, person(1, box=left), person(2, box=right)))
    overlapping = request(method, "two", 0, person(1, box=whole), person(2, box=(0.25, 0.0, 1.0, 1.0)))
    assert images(method, overlapping)[0].std() > 0


def test_masks_are_the_boxes() -> None:
    method = ready_faceid("sd15", "faceid")
    two = request(method, "two", 0, person(1, box=(0.0, 0.25, 0.5, 1.0)), person(2, box=(0.5, 0.0, 1.0, 1.0)))
    masks = method.arguments([two])["cross_attention_kwargs"]["ip_adapter_masks"][0]
    assert masks.shape == (1, 2, 64, 64)
    assert masks[0, 0, 16:, :32].min() == 1
    assert masks[0, 0].sum() == 48 * 32
    assert masks[0, 1, :, 32:].min() == 1
    assert masks[0, 1].sum() == 64 * 32


def test_guidance_of_one_shows_nobody_nothing() -> None:
    method = ready_faceid("sd15", "faceid")
    agrees(method, *(request(method, "a man", k, person(k), guidance=1) for k in range(2)))
    method.check(request(method, "a man", 0, guidance=1))
    with pytest.raises(Rejected, match="set guidance above 1"):
        method.check(request(method, "a man", 0, guidance=1, negative="fog"))


def test_prompts_over_the_limit_are_recorded() -> None:
    method = ready_faceid("sdxl", "faceid")
    cut = method.generate([request(method, "word " * 40, 0)])[0].facts["prompt_cut"]
    assert set(cut) == {"tokenizer", "tokenizer_2"}


def test_a_better_vae_takes_the_place_of_the_bases_own() -> None:
    bound = {**faceid_models("sd15", "faceid"), "vae": tiny("sd-vae")}
    other, method = loaded(FACEID, bound), ready_faceid("sd15", "faceid")
    [one], [two] = images(other, request(other, "a man", 0)), images(method, request(method, "a man", 0))
    assert apart(one, two) > CLOSE
