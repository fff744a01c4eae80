"""DynamicID: people in boxes, edited faces, strict checkpoints, and a run through the pipeline."""

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
from idtool.generate.sd import editing  # noqa: E402
from idtool.generate.sd.imr import KeyPointEncoder, Reconfigurator  # noqa: E402
from tests.generate import sd_runs  # noqa: E402
from tests.generate.made import run, table  # noqa: E402
from tests.zoo import Zoo, sd_methods  # noqa: E402
from tests.zoo.weights import drawn  # noqa: E402

pytestmark = pytest.mark.offline_weights

MODELS: dict[str, Any] = {
    "base": {"model": "hf:tiny/sd15"},
    "adapter": sd_runs.file("dynamicid", "SAA.bin"),
    "face": sd_runs.FACE,
    "vision": sd_runs.VISION,
}
EDITING: dict[str, Any] = {
    "imr": sd_runs.file("dynamicid", "IMR_1.bin"),
    "key_points": sd_runs.file("dynamicid", "key_point_encoder_1.bin"),
    "pose": {"model": "insightface:tiny"},
    "expression": {
        "model": "hf:tiny/resemotenet",
        "options": {"format": "resemotenet", "file": "fer2013_model.pth"},
    },
}


@pytest.fixture(scope="module")
def method(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("insightface")
    zoo("clip", "sd15", "dynamicid", "face-pack", "resemotenet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDTOOL_MODELS", str(zoo.mirror))
        yield sd_runs.loaded(tmp_path_factory.mktemp("run"), "dynamicid", {**MODELS, **EDITING})


def one(method: Any, seed: int, *people: Any, **values: Any) -> np.ndarray:
    return sd_runs.images(method, sd_runs.request(method, "a man", seed, *people, **values))[0]


def test_a_batch_is_its_singles(method: Any) -> None:
    for profile in ("paper", "code"):
        requests = [sd_runs.request(method, f"portrait {k}", k, negative="fog", profile=profile) for k in range(4)]
        batch = sd_runs.images(method, *requests)
        singles = [sd_runs.images(method, request)[0] for request in requests]
        assert max(sd_runs.alike(*pair) for pair in zip(batch, singles, strict=True)) <= 1
        assert not np.array_equal(batch[0], batch[1])


def test_without_people_it_is_the_base_model(method: Any) -> None:
    request = sd_runs.request(method, "a man", 3, id_scale=0, lora_scale=0)
    ours = sd_runs.images(method, request)[0]
    with torch.inference_mode():
        generator = torch.Generator("cpu").manual_seed(3)
        wanted = method.pipe(
            "a man",
            width=64,
            height=64,
            num_inference_steps=2,
            guidance_scale=5.0,
            generator=generator,
            output_type="np",
        ).images[0]
    assert np.array_equal(ours, np.clip(wanted * 255, 0, 255).round().astype(np.uint8))
    assert sd_runs.alike(ours, one(method, 3)) > 2
    assert method.conditions.is_neutral


def test_settings_and_people_show(method: Any) -> None:
    two = sd_runs.person(1), sd_runs.person(2)
    paper = one(method, 0, *two)
    assert paper.shape == (64, 64, 3)
    assert sd_runs.alike(paper, one(method, 0, *two[::-1])) > 0
    assert sd_runs.alike(paper, one(method, 0, *two, profile="code")) > 0
    boxes = [(0.0, 0.0, 0.6, 1.0), (0.4, 0.0, 1.0, 0.5)]  # they overlap
    moved = [sd_runs.person(k + 1, box=box) for k, box in enumerate(boxes)]
    assert sd_runs.alike(paper, one(method, 0, *moved)) > 0
    strips = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]
    told = [sd_runs.person(k + 1, box=box) for k, box in enumerate(strips)]
    assert np.array_equal(paper, one(method, 0, *told))  # the default
    assert sd_runs.images(method, sd_runs.request(method, "three", 0, *two, sd_runs.person(3), width=128))
    gates = {
        profile: method.gate([sd_runs.request(method, "a", 0, profile=profile, steps=50)])
        for profile in ("paper", "code")
    }
    assert (gates["paper"].until, gates["paper"].strength, gates["paper"].threshold) == (12, 2.0, 0.0)
    assert (gates["code"].until, gates["code"].strength, gates["code"].threshold) == (3, 4.0, 0.3)
    assert gates["paper"].boxes == [None, None] and gates["code"].boxes == [[(0.0, 0.0, 1.0, 1.0)]] * 2


def test_faces_are_edited(method: Any) -> None:
    plain = one(method, 0)
    happy, sad = (one(method, 0, expressions=[kind]) for kind in ("happy", "sad"))
    up = one(method, 0, orientations=["up"])
    assert min(sd_runs.alike(plain, other) for other in (happy, sad, up)) > 0
    requests = [sd_runs.request(method, "a", k, expressions=["sad"]) for k in range(2)]
    with torch.inference_mode():
        both = method.tokens(requests, 0)
        alone = torch.cat([method.tokens([request], 0) for request in requests])
        as_is = method.tokens([sd_runs.request(method, "a", 0)], 0)
        other = method.tokens([sd_runs.request(method, "a", 0, expressions=["happy"])], 0)
    assert both.shape == (2, 4, sd_methods.WIDTH)
    assert torch.allclose(both, alone, atol=1e-4)
    assert not torch.allclose(as_is, both[:1], atol=1e-3) and not torch.equal(other, both[:1])
    with pytest.raises(Rejected, match="2 expressions for 1 people"):
        method.check(sd_runs.request(method, "a", 0, expressions=["sad", "happy"]))


def test_a_driver_lends_its_landmarks(method: Any, fixtures: Path) -> None:
    driver = str(fixtures / "identities" / "biden" / "00_face_recognition.jpg")
    lent = one(method, 0, drivers=[driver])
    assert sd_runs.alike(one(method, 0), lent) > 0
    with pytest.raises(Rejected, match="no face"):
        one(method, 0, drivers=[str(fixtures / "hard" / "dog.jpg")])


def test_reconfigurator() -> None:
    with drawn():
        network = Reconfigurator(width=12, text=8, dim=16, inner=64, count=4, disentangle=2, entangle=1).eval()
        encoder = KeyPointEncoder(2, 12).eval()
        tokens, rasters, text = torch.randn(2, 4, 12), torch.randn(2, 1, 96, 96), torch.randn(2, 8)
    landmarks = encoder(rasters)
    assert landmarks.shape == (2, 12)
    source = network.motion(landmarks, text)
    assert source.shape == (2, 4, 16)
    edited = network(tokens, source, source.flip(0))
    assert edited.shape == tokens.shape
    assert torch.allclose(network(tokens[:1], source[:1], source[1:]), edited[:1], atol=1e-5)
    assert not torch.allclose(edited, network(tokens, source, source))
    names = set(network.state_dict())
    assert {"feature_fusion.4.weight", "disentangleNet.1.0.to_kv.weight", "entangleNet.0.1.norm1.bias"} <= names
    assert "entangleNet.0.2.3.weight" in names and "entangleNet.0.1.norm2.bias" not in names
    again = Reconfigurator.like(network.state_dict())
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    # Without layers there is nothing that a motion could change: the tokens pass the two projections alone.
    bare = Reconfigurator(width=12, text=8, dim=16, inner=64, count=4, disentangle=0, entangle=0)
    wanted = bare.proj_out(bare.norm_out(bare.proj_in(bare.norm_in(tokens))))
    assert torch.equal(bare(tokens, source, source.flip(0)), wanted)
    # Sizes of the published files: 40.9 and 8.3 million parameters.
    full = Reconfigurator(width=768, text=768, dim=1024, inner=1024, count=4, disentangle=1, entangle=1)
    assert round(sum(p.numel() for p in full.parameters()) / 1e6, 1) == 40.9
    assert round(sum(p.numel() for p in KeyPointEncoder().parameters()) / 1e6, 1) == 8.3


def test_words_and_rasters() -> None:
    assert editing.orientation(3, 12) == "facing up, in front view"
    assert editing.orientation(-30, -12) == "facing down, in side view"
    assert editing.orientation(9.9, 0) == "in front view"
    spots = editing.raster([[100, 50], [-5, 3], [199.9, 99.9]], 100, 200)
    assert spots.shape == (96, 96) and spots[48, 48] == 1 and spots[95, 95] == 1
    assert (spots == 1).sum() == 2 and (spots == -1).sum() == 96 * 96 - 2
    motion = editing.Motion("happy", editing.ORIENTATIONS["side"], spots)
    assert motion.description == "in a happy expression, in side view"


def test_checkpoints_that_do_not_fit(method: Any, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDTOOL_MODELS", str(zoo.mirror))
    state = torch.load(zoo.mirror / "tiny" / "dynamicid" / "SAA.bin", weights_only=True)

    def refused(match: str, changes: dict[str, Any] | None = None, **models: Any) -> None:
        bound = {**MODELS, **models}
        if changes is not None:
            torch.save(changes, tmp_path / "it.bin")
            bound["adapter"] = {"model": f"local:{tmp_path}", "options": {"file": "it.bin"}}
        with pytest.raises(MissingError, match=match):
            sd_runs.loaded(tmp_path, "dynamicid", bound)

    saa = dict(state["SAA_module"])
    less = {name: tensor for name, tensor in saa.items() if name != "1.to_k_ip.weight"}
    refused(r"1 missing \(1.to_k_ip.weight\)", {**state, "SAA_module": less})
    refused(
        r"1 unexpected \(99.to_k_ip.weight\)",
        {**state, "SAA_module": {**saa, "99.to_k_ip.weight": saa["1.to_k_ip.weight"]}},
    )
    refused("misses proj_module and has image_proj", {"image_proj": state["proj_module"], "SAA_module": saa})
    proj = {name: tensor for name, tensor in state["proj_module"].items() if name != "norm.weight"}
    refused("is no checkpoint of dynamicid: it has no 'norm.weight'", {**state, "proj_module": proj})
    refused("is not on this machine", adapter=sd_runs.file("dynamicid", "absent.bin"))
    refused(r"binds imr for editing faces, but not key_points, pose, expression", imr=EDITING["imr"])
    other = zoo.mirror / "tiny" / "sd15-other"
    if not other.is_dir():
        sd_methods.stable_diffusion(other, block_out_channels=(8, 16))
    refused(
        r"on hf:tiny/sd15-other does not fit its network: \d+ of another shape", base={"model": "hf:tiny/sd15-other"}
    )
    zoo("sdxl")
    refused("cannot be loaded|is SDXL, and method 'tiny' is not for it", base={"model": "hf:tiny/sdxl"})
    refused("is no diffusers pipeline", base={"model": "hf:tiny/clip"})


def test_through_the_pipeline(tiny: Zoo, fixtures: Path, tmp_path: Path) -> None:
    pytest.importorskip("insightface")
    tiny("clip", "sd15", "dynamicid", "face-pack", "resemotenet")
    config = sd_runs.pipelines(tmp_path, "dynamicid", MODELS)
    obama, biden = (str(fixtures / "identities" / name / "00_face_recognition.jpg") for name in ("obama", "biden"))
    boxes = ((0.1, 0.1, 0.4, 0.5), (0.6, 0.1, 0.9, 0.5))
    wishes = [
        Wish("1: a man", (obama,)),
        Wish("2: two men", (obama, biden), boxes=boxes, settings={"profile": "code"}),
        Wish("3: " + "very long " * 20, (obama,)),
        Wish("4: a dog", (str(fixtures / "hard" / "dog.jpg"),)),
        Wish("5: size", (obama,), width=72),
        Wish("6: smile", (obama,), settings={"expressions": ["happy"]}),
        Wish(" ", (obama,)),
    ]
    run("tiny", wishes, tmp_path / "run", config=config)
    rows = {row["prompt"][:1]: row for row in table(tmp_path / "run")}
    assert {key: row["reason"] for key, row in rows.items()} == {
        "1": None,
        "2": None,
        "3": None,
        "4": "reference.no_face",
        "5": "request.width",
        "6": "request.expressions",
        " ": "request.prompt",
    }
    assert rows["1"]["media"] and rows["1"]["image_width"] == 64
    assert json.loads(rows["2"]["facts"])["boxes"] == [list(box) for box in boxes]
    assert json.loads(rows["1"]["facts"]) == {}
    assert json.loads(rows["3"]["facts"])["prompt_cut"]["tokenizer"] > 50
    told = json.loads(rows["1"]["preprocessing"])
    assert told["face"]["model"] == "arcface-mbf" and told["vision"]["model"] == "hf:tiny/clip"
