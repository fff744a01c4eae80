"""ConsistentID: regions behind their words, the merge step, strict checkpoints, and a run through the pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from idtool.errors import MissingError  # noqa: E402
from idtool.generate.requests import Wish  # noqa: E402
from idtool.generate.sd import facial, marks  # noqa: E402
from idtool.media.images import decode  # noqa: E402
from idtool.models.parts import PARTS, Parsed  # noqa: E402
from tests.generate import sd_runs  # noqa: E402
from tests.generate.made import run, table  # noqa: E402
from tests.zoo import Zoo  # noqa: E402
from tests.zoo.tokens import clip_tokenizer  # noqa: E402

pytestmark = pytest.mark.offline_weights

MODELS: dict[str, Any] = {
    "base": {"model": "hf:tiny/sd15-long"},
    "adapter": sd_runs.file("consistentid", "ConsistentID-v1.bin"),
    "face": sd_runs.FACE,
    "vision": sd_runs.VISION,
    "parser": {"model": "bisenet-celebamask"},
}
REGIONS = ["face", "ears", "eyes", "nose", "mouth"]


@pytest.fixture(scope="module")
def method(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    zoo("clip", "sd15-long", "consistentid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDTOOL_MODELS", str(zoo.mirror))
        yield sd_runs.loaded(tmp_path_factory.mktemp("run"), "consistentid", MODELS, merge_step=0)


class EveryRegion:
    """A parser that sees everything in stripes, or only the face."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        self.parts = parts

    def __call__(self, images: Any, faces: Any) -> list[Parsed]:
        labels = np.zeros((512, 512), np.uint8)
        for k, part in enumerate(self.parts):
            labels[:, 40 * k : 40 * k + 40] = PARTS.index(part)
        scale = 512 / 128
        return [Parsed(labels, np.array([[scale, 0, 0], [0, scale, 0]])) for _ in images]


ALL = EveryRegion(("skin", "left_ear", "right_ear", "left_eye", "right_eye", "nose", "upper_lip", "lower_lip"))


@pytest.fixture(autouse=True)
def seen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise has no face for the real parser."""
    if "method" in request.fixturenames:
        monkeypatch.setattr(request.getfixturevalue("method"), "parser", ALL)


def test_marks_are_taken_out() -> None:
    tokenizer = clip_tokenizer(24)
    found = marks.marked(tokenizer, "a man <|x|> and an owl <|x|>, far", "<|x|>")
    plain = tokenizer("a man and an owl , far", padding="max_length", max_length=24).input_ids
    assert found.ids == plain and found.cut == 0
    letters = tokenizer.convert_ids_to_tokens([found.ids[at[-1]] for at in found.positions])
    assert letters == ["n</w>", "l</w>"]
    doubled = marks.marked(tokenizer, "a man <|x|>, far", "<|x|>", copies=3)
    assert doubled.positions == [[4, 5, 6]] and len({doubled.ids[k] for k in (4, 5, 6)}) == 1
    rest = [*doubled.ids[:4], *doubled.ids[6:]]
    single = tokenizer("a man , far").input_ids
    assert rest == [*single, *[tokenizer.pad_token_id] * (22 - len(single))]
    long = marks.marked(tokenizer, "man <|x|> " + "y" * 30 + " <|x|>", "<|x|>")
    assert len(long.ids) == 24 and long.ids[-1] == tokenizer.eos_token_id
    assert long.positions == [[3]] and long.cut == 35 - 24
    with pytest.raises(ValueError, match="no word before it"):
        marks.marked(tokenizer, "<|x|> man", "<|x|>")


def test_sentence() -> None:
    assert facial.prompt_with("a man", REGIONS) == (
        "a man Detail:The person has one face <|facial|>, two ears <|facial|>, two eyes <|facial|>, "
        "one nose <|facial|>, and one mouth <|facial|>,"
    )
    assert facial.prompt_with("a man", ["nose"], detail_first=True) == "Detail:one nose <|facial|>, Caption:a man"
    assert facial.prompt_with("a man", []) == "a man"


def test_regions_are_cut_out() -> None:
    image = np.full((128, 128, 3), 200, np.uint8)
    found = facial.regions(image, ALL([image], [None])[0])
    assert list(found) == REGIONS
    assert (found["ears"][:, 12:28] == 200).all() and not found["ears"][:, 32:].any() and not found["ears"][:, :8].any()
    only = facial.regions(image, EveryRegion(("skin",))([image], [None])[0])
    assert list(only) == ["face"]


def test_a_batch_is_its_singles(method: Any) -> None:
    requests = [sd_runs.request(method, f"portrait {k}", k, negative="fog") for k in range(4)]
    batch = sd_runs.images(method, *requests)
    singles = [sd_runs.images(method, request)[0] for request in requests]
    assert max(sd_runs.alike(*pair) for pair in zip(batch, singles, strict=True)) <= 1
    assert not np.array_equal(batch[0], batch[1])


def test_merge_step(method: Any) -> None:
    made = {k: sd_runs.images(method, sd_runs.request(method, "a man", 0, merge_step=k))[0] for k in (-1, 0, 1, 30)}
    assert sd_runs.alike(made[-1], made[0]) > 0 and sd_runs.alike(made[0], made[1]) > 0
    assert np.array_equal(made[1], made[30])  # two steps, 0 and 1: both with the plain prompt
    plain = sd_runs.request(method, "a man", 3, merge_step=30, id_scale=0, lora_scale=0, guidance=1.0)
    ours = sd_runs.images(method, plain)[0]
    text = facial.prompt_with("a man", REGIONS).replace(facial.MARK, "")
    with torch.inference_mode():
        wanted = method.pipe(
            text,
            width=64,
            height=64,
            num_inference_steps=2,
            guidance_scale=1.0,
            generator=torch.Generator("cpu").manual_seed(3),
            output_type="np",
        ).images[0]
    assert np.array_equal(ours, np.clip(wanted * 255, 0, 255).round().astype(np.uint8))


def test_regions_reach_the_words_that_name_them(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [sd_runs.request(method, "a man", k, merge_step=-1, guidance=1.0) for k in range(2)]
    with torch.inference_mode():
        extra, facts = method.prompts(requests)
        plain, _ = method.prompts([sd_runs.request(method, "a man", 0, merge_step=0, guidance=1.0)])
    changed = (extra["prompt_embeds"][0] != plain["prompt_embeds"][0]).any(dim=-1).nonzero().flatten().tolist()
    ids = marks.marked(method.pipe.tokenizer, facial.prompt_with("a man", REGIONS), facial.MARK).ids
    letters = method.pipe.tokenizer.convert_ids_to_tokens([ids[k] for k in changed])
    assert letters == ["e</w>", "s</w>", "s</w>", "e</w>", "h</w>"]  # face, ears, eyes, nose, mouth
    assert facts == [{"regions": REGIONS}] * 2
    monkeypatch.setattr(method, "parser", EveryRegion(("skin", "nose")))
    with torch.inference_mode():
        _, facts = method.prompts(requests[:1])
        long = sd_runs.request(method, "x" * 300, 0, merge_step=-1)
        _, cut = method.prompts([long])
    assert facts == [{"regions": ["face", "nose"]}]
    assert cut[0]["regions"] == ["face", "nose"] and cut[0]["prompt_cut"]["tokenizer"] > 0
    monkeypatch.setattr(method, "parser", EveryRegion(()))
    assert sd_runs.images(method, sd_runs.request(method, "a man", 0, merge_step=-1))


def test_checkpoints_that_do_not_fit(method: Any, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDTOOL_MODELS", str(zoo.mirror))
    state = torch.load(zoo.mirror / "tiny" / "consistentid" / "converted.bin", weights_only=True)
    assert sd_runs.loaded(
        tmp_path, "consistentid", {**MODELS, "adapter": sd_runs.file("consistentid", "converted.bin")}
    )

    def refused(match: str, section: str, name: str, new: str | None = None) -> None:
        some = dict(state[section])
        tensor = some.pop(name) if new is None else some[name]
        changed = {**state, section: some if new is None else {**some, new: tensor}}
        torch.save(changed, tmp_path / "it.bin")
        adapter = {"model": f"local:{tmp_path}", "options": {"file": "it.bin"}}
        with pytest.raises(MissingError, match=match):
            sd_runs.loaded(tmp_path, "consistentid", {**MODELS, "adapter": adapter})

    refused("1 missing .fuse_module.mlp2.fc1.bias.", "FacialEncoder", "fuse_module.mlp2.fc1.bias")
    refused("it has no 'visual_projection.latents'|it has no 'latents'", "FacialEncoder", "visual_projection.latents")
    refused("1 missing .3.to_v_ip.weight.", "adapter_modules", "3.to_v_ip.weight")
    refused("1 unexpected .2.to_v_ip.weight.", "adapter_modules", "3.to_v_ip.weight", "2.to_v_ip.weight")
    with pytest.raises(MissingError, match="has SAA_module, proj_module"):
        zoo("dynamicid")
        sd_runs.loaded(tmp_path, "consistentid", {**MODELS, "adapter": sd_runs.file("dynamicid", "SAA.bin")})


def test_through_the_pipeline(tiny: Zoo, fixtures: Path, tmp_path: Path) -> None:
    tiny("clip", "sd15-long", "consistentid")
    config = sd_runs.pipelines(tmp_path, "consistentid", MODELS, merge_step=0)
    obama = str(fixtures / "identities" / "obama" / "00_face_recognition.jpg")
    dog = str(fixtures / "hard" / "dog.jpg")
    wishes = [Wish("a man", (obama,), n=2), Wish("a dog", (dog,)), Wish("odd", (obama,), width=68), Wish("", (obama,))]
    run("tiny", wishes, tmp_path / "run", config=config)
    rows = table(tmp_path / "run")
    assert [row["reason"] for row in rows] == ["request.prompt", "reference.no_face", None, None, "request.width"]
    assert json.loads(rows[2]["facts"])["regions"] == REGIONS  # the real parser on a real photo
    told = json.loads(rows[2]["preprocessing"])
    assert set(told) == {"face", "vision", "parser", "regions"} and told["parser"]["model"] == "bisenet-celebamask"
    assert decode(Path(obama).read_bytes()).shape[2] == 3
