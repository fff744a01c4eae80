"""PhotoMaker and FastComposer: marks in prompts, the merge step, strict checkpoints, and runs through the pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from idtool.engine.operator import Rejected  # noqa: E402
from idtool.errors import MissingError  # noqa: E402
from idtool.generate.requests import Wish  # noqa: E402
from idtool.generate.sd import clip_state, marks  # noqa: E402
from idtool.generate.sd.lora_names import natural  # noqa: E402
from tests.generate import sd_runs  # noqa: E402
from tests.generate.made import run, table  # noqa: E402
from tests.zoo import Zoo  # noqa: E402

pytestmark = pytest.mark.offline_weights

MODELS: dict[str, dict[str, Any]] = {
    "photomaker": {"base": {"model": "hf:tiny/sdxl"}, "adapter": sd_runs.file("photomaker", "photomaker-v1.bin")},
    "photomaker-v2": {
        "base": {"model": "hf:tiny/sdxl"},
        "adapter": sd_runs.file("photomaker", "photomaker-v2.bin"),
        "face": sd_runs.FACE,
    },
    "fastcomposer": {"base": {"model": "hf:tiny/sd15"}, "adapter": sd_runs.file("fastcomposer", "pytorch_model.bin")},
}
BUILT = ("clip", "sd15", "sdxl", "photomaker", "fastcomposer")


@pytest.fixture(scope="module", params=sorted(MODELS))
def method(request: pytest.FixtureRequest, zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    zoo(*BUILT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDTOOL_MODELS", str(zoo.mirror))
        folder = tmp_path_factory.mktemp("run")
        yield sd_runs.loaded(folder, request.param, MODELS[request.param], merge_step=0)


def one(method: Any, prompt: str, *people: Any, **values: Any) -> np.ndarray:
    return sd_runs.images(method, sd_runs.request(method, prompt, 3, *people, **values))[0]


def test_a_batch_is_its_singles(method: Any) -> None:
    requests = [sd_runs.request(method, f"a man {k}", k, negative="fog") for k in range(4)]
    batch = sd_runs.images(method, *requests)
    singles = [sd_runs.images(method, request)[0] for request in requests]
    assert max(sd_runs.alike(*pair) for pair in zip(batch, singles, strict=True)) <= 1
    assert not np.array_equal(batch[0], batch[1])


def test_the_merge_step_and_the_reference_show(method: Any) -> None:
    # Two steps; PNDM takes three for them.
    made = {k: one(method, "a man", merge_step=k) for k in (-1, 0, 2, 30)}
    assert sd_runs.alike(made[-1], made[0]) > 0 and sd_runs.alike(made[0], made[2]) > 0
    assert np.array_equal(made[2], made[30])  # all of them with the plain prompt
    assert sd_runs.alike(made[-1], one(method, "a man", sd_runs.person(7), merge_step=-1)) > 0
    values = {"lora_scale": 0} if "lora_scale" in type(method.spec.settings).model_fields else {}
    plain = one(method, "a man", merge_step=30, **values)
    with torch.inference_mode():
        wanted = method.pipe(
            "a man",
            width=64,
            height=64,
            num_inference_steps=2,
            guidance_scale=5.0,
            generator=torch.Generator("cpu").manual_seed(3),
            output_type="np",
        ).images[0]
    assert np.array_equal(plain, np.clip(wanted * 255, 0, 255).round().astype(np.uint8))
    if values:
        assert sd_runs.alike(plain, made[30]) > 0


def test_only_the_marked_word_changes(method: Any) -> None:
    mark = "<|image|>" if method.spec.kind == "fastcomposer" else "img"
    requests = [sd_runs.request(method, f"a man {mark} at sea", k, guidance=1.0) for k in range(2)]
    with torch.inference_mode():
        plain, _ = method.prompts(requests)
        fused, facts = method.prompts(
            [sd_runs.request(method, "a man at sea", k, guidance=1.0, merge_step=-1) for k in range(2)]
        )
    assert facts[0]["marked_prompt"] == f"a man {mark} at sea"
    # Start, a, m, a, n: where the word is repeated, all after it moves on.
    changed = (plain["prompt_embeds"] != fused["prompt_embeds"]).any(dim=-1).any(dim=0).nonzero().flatten().tolist()
    assert changed[0] == 4 and (method.spec.kind == "photomaker-v2" or changed == [4])
    assert fused["prompt_embeds"].shape == (2, 77, 64)


def test_prompts_without_a_place_are_refused(method: Any) -> None:
    is_fast = method.spec.kind == "fastcomposer"
    mark = "<|image|>" if is_fast else "img"
    for prompt, match in (
        ("a castle", "no word such as man"),
        (f"a man {mark} and a man {mark}", "has 2"),
        (f"{mark} man", "no word before it"),
        ("x" * 90 + f" man {mark}", "lies behind the 77 tokens"),
    ):
        with pytest.raises(Rejected, match=match):
            method.check(sd_runs.request(method, prompt, 0))
    if is_fast:
        two = sd_runs.person(1), sd_runs.person(2)
        request = sd_runs.request(method, "a man and a woman", 0, *two)
        method.check(request)
        with torch.inference_mode():
            _, facts = method.prompts([request])
        assert facts[0]["marked_prompt"] == "a man <|image|> and a woman <|image|>"
        swapped = sd_runs.request(method, "a man and a woman", 0, *two[::-1])
        assert sd_runs.alike(*(sd_runs.images(method, each)[0] for each in (request, swapped))) > 0


def test_marks_go_behind_words_for_people() -> None:
    assert marks.with_marks("A Woman, a manly man", "img", 1, word=True) == "A Woman img, a manly man"
    assert marks.with_marks("a man image", "img", 1, word=True) == "a man img image"
    assert marks.with_marks("a cat img", "img", 1, word=True) == "a cat img"


def test_names_of_loras() -> None:
    tensor = torch.ones(1)
    given = {
        "unet.down.attn1.processor.to_q_lora.down.weight": "down.attn1.to_q.lora_A.weight",
        "down.attn1.processor.to_out_lora.up.weight": "down.attn1.to_out.0.lora_B.weight",
        "unet.down.attn1.to_k.lora.up.weight": "down.attn1.to_k.lora_B.weight",
        "unet.down.attn1.to_v.lora_A.weight": "down.attn1.to_v.lora_A.weight",
        "text_encoder.q.weight": "text_encoder.q.weight",
    }
    assert list(natural(dict.fromkeys(given, tensor))) == list(given.values())


def test_pictures_are_prepared_as_clip_does() -> None:
    from transformers import CLIPImageProcessor

    draw = np.random.default_rng(0)
    picture = draw.integers(0, 256, (61, 40, 3), dtype=np.uint8)
    ours = clip_state.middle(28)([picture])["pixel_values"]
    theirs = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    wanted = theirs(picture, return_tensors="pt")["pixel_values"]
    assert (ours - wanted).abs().max() < 0.03  # a level of 255
    square = clip_state.squared(28)([np.full((60, 30, 3), 255, np.uint8)])["pixel_values"][0]
    black = [-mean / deviation for mean, deviation in zip(clip_state.MEAN, clip_state.DEVIATION, strict=True)]
    assert torch.allclose(square[:, 14, 0], torch.tensor(black), atol=1e-4) and (square[:, 14, 14] > 1.5).all()


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_checkpoints_that_do_not_fit(kind: str, tiny: Zoo, tmp_path: Path) -> None:
    tiny(*BUILT)
    bound = MODELS[kind]
    name = bound["adapter"]["options"]["file"]
    state = torch.load(tiny.mirror / "tiny" / kind.removesuffix("-v2") / name, weights_only=True)

    def refused(match: str, changed: dict[str, Any]) -> None:
        torch.save(changed, tmp_path / "it.bin")
        adapter = {"model": f"local:{tmp_path}", "options": {"file": "it.bin"}}
        with pytest.raises(MissingError, match=match):
            sd_runs.loaded(tmp_path, kind, {**bound, "adapter": adapter})

    if kind == "fastcomposer":
        gone = "unet.conv_in.weight"
        refused(
            r"UNet does not fit its network: 1 missing \(conv_in.weight\)",
            {k: v for k, v in state.items() if k != gone},
        )
        refused("1 unexpected .more.", {**state, "text_encoder.more": state[gone]})
        refused("1 missing .mlp1.fc1.bias.", {k: v for k, v in state.items() if k != "postfuse_module.mlp1.fc1.bias"})
        refused("misses postfuse_module", {k: v for k, v in state.items() if not k.startswith("postfuse")})
        return
    encoder, lora = state["id_encoder"], state["lora_weights"]
    first = next(iter(lora))
    less = {k: v for k, v in lora.items() if k != first}
    refused("1 layers with half a pair", {"id_encoder": encoder, "lora_weights": less})
    refused("1 keys that are no LoRA's", {"id_encoder": encoder, "lora_weights": {**lora, "strange": lora[first]}})
    other = {k: v for k, v in encoder.items() if k != "fuse_module.mlp2.fc2.weight"}
    refused("1 missing .fuse_module.mlp2.fc2.weight.", {"id_encoder": other, "lora_weights": lora})
    version = "photomaker" if kind == "photomaker-v2" else "photomaker-v2"
    with pytest.raises(MissingError, match=r"PhotoMaker [12]'s"):
        sd_runs.loaded(tmp_path, kind, {**bound, "adapter": MODELS[version]["adapter"]})
    with pytest.raises(MissingError, match="hf:tiny/sd15 is no SDXL"):
        sd_runs.loaded(tmp_path, kind, {**bound, "base": {"model": "hf:tiny/sd15"}})


@pytest.mark.parametrize("kind", [*sorted(MODELS), "dynamicid", "consistentid"])
def test_bfloat16(kind: str, tiny: Zoo, tmp_path: Path) -> None:
    """What CUDA runs in: every part of a method in the pipeline's precision."""
    from tests.generate import test_consistentid, test_dynamicid

    others = {"dynamicid": test_dynamicid.MODELS, "consistentid": test_consistentid.MODELS}
    tiny(*BUILT, *others, "sd15-long")
    bound = MODELS.get(kind) or others[kind]
    method = sd_runs.loaded(tmp_path, kind, bound, dtype="bfloat16")
    assert method.dtype() == "bfloat16" and method.pipe.unet.dtype == torch.bfloat16
    values = {"merge_step": -1} if kind != "dynamicid" else {}
    assert one(method, "a man", **values).std() > 1


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_through_the_pipeline(kind: str, tiny: Zoo, fixtures: Path, tmp_path: Path) -> None:
    tiny(*BUILT)
    config = sd_runs.pipelines(tmp_path, kind, MODELS[kind], merge_step=0)
    obama = str(fixtures / "identities" / "obama" / "00_face_recognition.jpg")
    dog = str(fixtures / "hard" / "dog.jpg")
    wishes = [
        Wish("a man", (obama,)),
        Wish("b: a man", (dog,)),
        Wish("c: nothing", (obama,)),
        Wish("d", (obama,), width=68),
    ]
    run("tiny", wishes, tmp_path / "run", config=config)
    reasons = [row["reason"] for row in table(tmp_path / "run")]
    # Workers share the pipeline and must not share its steps: a row a shard, alone and side by side.
    for workers in (1, 2):
        again = tmp_path / f"workers{workers}"
        run("tiny", [Wish("a man", (obama,), n=3)], again, config=config, workers=workers, run={"shard": 1})
    made = [[row["media"] for row in table(tmp_path / f"workers{workers}")] for workers in (1, 2)]
    assert made[0] == made[1] and len(set(made[0])) == 3 and None not in made[0]
    dogs = "reference.no_face" if kind == "photomaker-v2" else None
    assert reasons[:3] == [None, dogs, "request.prompt"] and reasons[3] in ("request.width", "request.prompt")
    row = table(tmp_path / "run")[0]
    assert row["media"] and json.loads(row["facts"])["marked_prompt"].startswith("a man ")
    assert "vision" in json.loads(row["preprocessing"])
