"""IdGlow: images from real photos on a tiny Qwen-Image-Edit, and its LoRA and card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.errors import MissingError
from idtool.generate import methods
from idtool.generate.flux.checkpoint import read_card
from idtool.generate.idglow import Card, IdGlow
from idtool.generate.idglow_gate import GatedAttention, anneal, gated, omega
from idtool.generate.method import Request
from idtool.generate.requests import Wish
from tests.generate import idglow_runs
from tests.generate.idglow_runs import PROMPT, Configure, adapter, loaded, local, picture, request
from tests.generate.made import configuration, run, table
from tests.zoo import Zoo
from tests.zoo import idglow as tiny_idglow

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")


@pytest.fixture
def configure(tiny: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    return Configure(tmp_path, tiny, monkeypatch)


@pytest.fixture
def photos(fixtures: Path) -> tuple[str, str]:
    return idglow_runs.photos(fixtures)


def image_of(method: IdGlow, one: Request) -> Any:
    [made] = method.generate([one])
    if isinstance(made, Exception):
        raise made
    return made.image


def test_off_it_is_the_stock_pipeline(configure: Configure, photos: tuple[str, str], tmp_path: Path) -> None:
    from diffusers import QwenImageEditPlusPipeline
    from PIL import Image

    method = loaded(configure(), tmp_path)
    pipe = QwenImageEditPlusPipeline.from_pretrained(method.weights("base").path, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)

    def stock(steps: int = 3) -> Any:
        made = pipe(
            image=[Image.open(path).convert("RGB") for path in photos],
            prompt=PROMPT,
            negative_prompt=" ",
            true_cfg_scale=4.0,
            width=64,
            height=64,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(3),
            output_type="np",
        )
        return (made.images[0] * 255).round().clip(0, 255).astype(np.uint8)

    plain = stock()
    bare = request(method, *photos, seed=3, adapter_scale=0.0)
    assert np.array_equal(image_of(method, bare), plain)
    lora = request(method, *photos, seed=3)
    assert not np.array_equal(image_of(method, lora), plain)
    # alpha / rank · B A on top of the base's own weights is what the LoRA does.
    state = {key.removeprefix("transformer."): tensor for key, tensor in tiny_idglow.lora().items()}
    with torch.no_grad():
        for name in {key.rpartition(".lora_")[0] for key in state}:
            change = state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
            pipe.transformer.get_submodule(name).weight += 8 / 4 * change
    assert np.abs(image_of(method, lora).astype(int) - stock()).max() <= 1
    # The gate at 1 throughout is no gate, and after it the network is as before.
    with gated(method.pipe, lambda t: 1.0) as state_of_gate:
        inside = image_of(method, lora)
    assert np.array_equal(inside, image_of(method, lora))
    assert [gate for _, gate in state_of_gate.steps] == [1, 1, 1]
    assert not any(isinstance(one, GatedAttention) for one in method.pipe.transformer.attn_processors.values())


def test_closed_the_network_never_sees_the_references(
    configure: Configure, photos: tuple[str, str], tmp_path: Path
) -> None:
    method = loaded(configure(), tmp_path)
    transformer = method.pipe.transformer
    generator = torch.Generator().manual_seed(0)
    target, text = torch.randn(1, 16, 64, generator=generator), torch.randn(1, 7, 16, generator=generator)

    def velocity(references: Any) -> Any:
        with torch.inference_mode():
            return transformer(
                hidden_states=torch.cat([target, references], dim=1),
                encoder_hidden_states=text,
                timestep=torch.tensor([0.5]),
                img_shapes=[[(1, 4, 4), (1, 2, 4)]],
                return_dict=False,
            )[0][:, :16]

    some, others = torch.randn(1, 8, 64, generator=generator), torch.ones(1, 8, 64)
    assert not torch.allclose(velocity(some), velocity(others), atol=1e-4)
    method.pipe._current_timestep = torch.tensor(500.0)
    with gated(method.pipe, omega("gate", 0.4, (0.6, 1.0))):
        assert torch.equal(velocity(some), velocity(others))
    with gated(method.pipe, omega("anneal", 0.4)), pytest.raises(ZeroDivisionError):
        method.pipe.transformer.register_forward_pre_hook(lambda *_: 1 / 0)
        velocity(some)
    assert not any(isinstance(one, GatedAttention) for one in transformer.attn_processors.values())


def test_what_gates_and_what_is_told(configure: Configure, photos: tuple[str, str], tmp_path: Path) -> None:
    method = loaded(configure(models={"adapter": adapter("gated.safetensors")}), tmp_path)
    made = {}
    for gating in ("adapter", "constant", "anneal", "gate", "reverse"):
        [one] = method.generate([request(method, *photos, gating=gating, steps=4)])
        assert not isinstance(one, Exception)
        made[gating] = one
    facts = {gating: one.facts for gating, one in made.items()}
    assert facts["adapter"] == facts["anneal"], "its card says that it was trained with the gate of equation 4"
    assert facts["adapter"]["tau"] == 0.5
    assert "gates" not in facts["constant"]
    assert [gate for _, gate in facts["gate"]["gates"]] == [0, 0, 1, 0]
    for t, strength in facts["anneal"]["gates"]:
        assert strength == pytest.approx(anneal(t, 0.5), abs=1e-3)
    assert np.array_equal(made["adapter"].image, made["anneal"].image)
    different = {one.image.tobytes() for one in made.values()}
    assert len(different) == 4
    ungated = loaded(configure(), tmp_path)
    [one] = ungated.generate([request(ungated, *photos)])
    assert not isinstance(one, Exception) and one.facts["gating"] == "constant", "only its loss was annealed"
    json.dumps([ungated.preprocessing(), ungated.fingerprint(), one.facts])


@pytest.mark.offline_weights
def test_images_through_the_pipeline(configure: Configure, photos: tuple[str, str], tmp_path: Path) -> None:
    """One, two and three people; a batch of four is four singles, to the byte; faults stay on their rows."""
    config, (obama, biden) = configure(), photos
    wishes = [Wish("a man", (obama,)), Wish(PROMPT, photos), Wish("three men", (obama, biden, obama))]
    wishes += [Wish("a man, again", (obama,), seed=k, n=2) for k in (5, 7)]
    run("mine", wishes, tmp_path / "run", config=config, profile="mine", run={"batch": 4})
    rows = table(tmp_path / "run")
    assert [(row["status"], row["message"]) for row in rows] == [("kept", None)] * 7
    assert {json.loads(row["facts"])["dynamic_prompt"] for row in rows} == {"off"}
    assert json.loads(rows[0]["preprocessing"])["adapter"]["tau"] == 0.5
    four = [row for row in rows if row["prompt"] == "a man, again"]
    assert len({row["media"] for row in four}) == 4
    # Two workers are two threads on one pipeline.
    run(
        "mine", wishes[3:], tmp_path / "singles", config=config, profile="mine", run={"batch": 1, "shard": 1}, workers=2
    )
    assert [row["media"] for row in table(tmp_path / "singles")] == [row["media"] for row in four]
    method = loaded(config, tmp_path)
    batch = method.generate([request(method, obama, prompt="a man, again", seed=seed) for seed in (5, 6, 7, 8)])
    for made, row in zip(batch, four, strict=True):
        assert not isinstance(made, Exception)
        assert np.array_equal(made.image, picture(tmp_path / "run", row))

    long = "a man " * 2000
    bad = [Wish("", (obama,)), Wish("odd", (obama,), width=72), Wish("four", (obama,) * 4)]
    bad += [Wish("one step", (obama,), settings={"steps": 1})]
    bad.append(Wish("no guidance", (obama,), negative_prompt="fog", settings={"true_guidance": 1}))
    bad += [Wish("none", ()), Wish(long, (obama,)), Wish("mode", (obama,), settings={"dynamic_prompt": "require"})]
    run("mine", [*bad, wishes[0]], tmp_path / "bad", config=config, profile="mine", max_error_rate=1.0)
    outcome = {row["prompt"]: (row["status"], row["reason"], row["message"]) for row in table(tmp_path / "bad")}
    assert outcome["a man"][0] == "kept"
    assert outcome[""][:2] == ("rejected", "request.prompt")
    assert outcome["odd"][:2] == ("rejected", "request.width")
    assert outcome["four"][:2] == outcome["none"][:2] == ("rejected", "request.people")
    assert outcome["no guidance"][:2] == ("rejected", "request.negative_prompt")
    assert outcome["one step"][0] == outcome["mode"][0] == "rejected"
    assert "steps" in outcome["one step"][2] and "the method's" in outcome["mode"][2]
    assert outcome[long][0] in ("kept", "error"), "what the text encoder cannot take is an error of its row"


def test_a_network_gone_wrong_is_an_error_of_its_rows(
    configure: Configure, photos: tuple[str, str], tmp_path: Path
) -> None:
    method = loaded(configure(), tmp_path)
    good = request(method, photos[0])
    with torch.no_grad():
        method.pipe.transformer.proj_out.bias.fill_(float("nan"))
    [made] = method.generate([good])
    assert isinstance(made, ValueError) and "not finite" in str(made)


# -- checkpoints -----------------------------------------------------------------------------------------------------


def changed(**changes: Any) -> dict[str, Any]:
    """The LoRA's tensors with some replaced; None: left out."""
    return {key: tensor for key, tensor in (tiny_idglow.lora() | changes).items() if tensor is not None}


FIRST = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"transformer.extra.weight": "ones"}, r"keys that are no LoRA's \(transformer\.extra\.weight\)"),
        ({"transformer.nowhere.lora_A.weight": "ones"}, "layers that the base model has not"),
        ({FIRST: None}, r"1 layers with half a pair \(transformer_blocks\.0\.attn\.to_q\)"),
        ({FIRST: "narrow"}, "layers of another shape"),
    ],
)
def test_a_lora_is_taken_whole_or_not_at_all(
    configure: Configure, tmp_path: Path, tensors: dict[str, Any], says: str
) -> None:
    shapes = {"ones": torch.ones(4, 4), "narrow": torch.ones(4, 5)}
    path = tiny_idglow.written(
        tmp_path / "other.safetensors", changed(**{key: shapes.get(value) for key, value in tensors.items()})
    )
    with pytest.raises(MissingError, match=says):
        loaded(configure(models={"adapter": local(path)}), tmp_path)


def test_cards(configure: Configure, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    for card, told in [
        ({"method": "dmid"}, "a checkpoint of dmid, not of idglow"),
        ({"tau": 1.0}, "tau: Input should be less than 1"),
        ({"schedule": "sometimes"}, "schedule: Input should be"),
        ({"unknown": 1}, "unknown: Extra inputs"),
        ({"rank": 8}, "has LoRA ranks 4, but its card says 8"),
        ({"base": "Qwen/Qwen-Image-Edit"}, r"trained on Qwen/Qwen-Image-Edit, but slot `base` is bound to tiny/qwen"),
    ]:
        tiny_idglow.written(path, **card)
        with pytest.raises(MissingError, match=told):
            loaded(configure(models={"adapter": local(path)}), tmp_path)
    save_file(tiny_idglow.lora(), path)
    with pytest.raises(MissingError, match="has no card"):
        read_card(path, "idglow", "it", Card)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(MissingError, match="cannot be read"):
        read_card(path, "idglow", "it", Card)
    with pytest.raises(MissingError, match=r"no \.safetensors file"):
        read_card(tmp_path / "lora.bin", "idglow", "it", Card)


def test_without_a_lora_or_on_another_base_it_does_not_run(
    configure: Configure, tiny: Zoo, photos: tuple[str, str], tmp_path: Path
) -> None:
    config = configure(models={"adapter": None})
    row = methods.row(configuration(config), "mine", configuration(config).profile("mine").bindings())
    assert row.state == "cannot"
    assert "IdGlow's weights are not public" in row.why
    assert (row.people, row.size) == ("1 to 3", "64 x 64")
    with pytest.raises(MissingError, match="not public"):
        run("mine", [Wish(PROMPT, photos)], tmp_path / "run", config=config, profile="mine")
    other = {"base": {"model": f"local:{tiny('clip')}", "licence": "none"}}
    with pytest.raises(MissingError, match="is no diffusers pipeline"):
        loaded(configure(models=other), tmp_path)
    index = tmp_path / "older" / "model_index.json"
    index.parent.mkdir()
    index.write_text(json.dumps({"_class_name": "QwenImageEditPipeline"}), "utf-8")
    with pytest.raises(MissingError, match="is a QwenImageEditPipeline, and this method runs on QwenImageEditPlus"):
        loaded(configure(models={"base": {"model": f"local:{index.parent}", "licence": "none"}}), tmp_path)
    with pytest.raises(MissingError, match="does not exist"):
        loaded(configure(models={"adapter": local(tmp_path / "gone.safetensors")}), tmp_path)
