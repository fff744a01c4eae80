"""InstantID and Arc2Face on tiny pipelines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.operator import Rejected
from idtool.errors import MissingError
from idtool.generate import keypoints
from idtool.generate.requests import Wish
from tests.generate.made import run, table
from tests.generate.stock_runs import (
    CLOSE,
    FACE,
    agrees,
    apart,
    checkpoints,
    images,
    loaded,
    person,
    pipelines,
    ready,
    request,
    tiny,
)
from tests.zoo import Zoo
from tests.zoo.pipelines import TEXT

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")
pytestmark = pytest.mark.offline_weights

INSTANTID = {
    "base": tiny("sdxl"),
    "controlnet": tiny("instantid"),
    "adapter": tiny("instantid", "ip-adapter.bin"),
    "face": FACE,
}
ARC2FACE = {"base": tiny("sd15"), "adapter": tiny("arc2face"), "face": FACE}
METHODS = {"instantid": INSTANTID, "arc2face": ARC2FACE}

mirror = checkpoints("sd15", "sdxl", "instantid", "arc2face", "faceid-sdxl")


def ready_face(kind: str) -> Any:
    return ready(kind, METHODS[kind])


@pytest.mark.parametrize("kind", list(METHODS))
def test_a_run_with_photos(kind: str, fixtures: Path, tmp_path: Path) -> None:
    photo = str(fixtures / "identities" / "obama" / "00_face_recognition.jpg")
    config = pipelines(tmp_path, kind, METHODS[kind])
    dog = str(fixtures / "hard" / "dog.jpg")
    wishes = [Wish("a man", (photo,), n=2), Wish("a dog", (dog,)), Wish("", (photo,))]
    run("tiny", wishes, tmp_path / "run", config=config)
    rows = {(row["prompt"], row["seed"]): row for row in table(tmp_path / "run")}
    assert rows["a man", 0]["status"] == rows["a man", 1]["status"] == "kept"
    assert json.loads(rows["a man", 0]["preprocessing"])["face"]["model"] == "arcface-mbf"
    assert rows["a dog", 0]["reason"] == "reference.no_face"
    if kind == "arc2face":
        assert json.loads(rows["a man", 0]["facts"]) == {"prompt": "not read"}
        assert rows["", 0]["status"] == "kept"
        assert json.loads(rows["", 0]["facts"]) == {}
    else:
        assert rows["", 0]["reason"] == "request.prompt"


@pytest.mark.parametrize("kind", list(METHODS))
def test_a_batch_of_four_is_four_singles(kind: str) -> None:
    method = ready_face(kind)
    agrees(method, *(request(method, f"prompt {k}", k, person(10 + k)) for k in range(4)))
    agrees(method, *(request(method, f"prompt {k}", k, person(10 + k), guidance=1) for k in range(2)))


def test_the_controlnet_reads_the_tokens_that_the_unet_sees() -> None:
    method = ready_face("instantid")
    seen: list[Any] = []

    def listens(_: Any, __: Any, kwargs: dict[str, Any], ___: Any) -> None:
        seen.append((kwargs["encoder_hidden_states"], kwargs["controlnet_cond"]))

    handles = [
        method.pipe.controlnet.register_forward_hook(listens, with_kwargs=True),
        method.pipe.unet.encoder_hid_proj.register_forward_hook(lambda _, __, out: seen.append(out[0])),
    ]
    one = request(method, "a man", 0, person(1))
    images(method, one)
    for handle in handles:
        handle.remove()
    (text, picture), tokens = seen[:2]
    assert text.shape == (2, 16, TEXT)
    assert tokens.shape == (2, 1, 16, TEXT)
    assert torch.allclose(text, tokens[:, 0], atol=1e-5)
    # Nobody for the negative prompt; the raw vector, which is longer than 1, for the prompt.
    raw = method.face.raw([person(1)])
    assert np.linalg.norm(raw) > 1.5
    assert not torch.allclose(text[0], text[1])
    expected = method.projection(torch.from_numpy(raw)[:, None])
    assert torch.allclose(text[1:], expected, atol=1e-5)
    drawn = torch.from_numpy(method.control(one)).permute(2, 0, 1) / 255
    assert torch.allclose(picture[0].float(), drawn, atol=1e-6)


def test_without_scales_it_is_the_base_alone(tiny: Zoo) -> None:
    from diffusers import StableDiffusionXLPipeline

    method = ready_face("instantid")
    [image] = images(method, request(method, "a man", 2, scale=0, controlnet_scale=0))
    folder = tiny.mirror / "tiny" / "sdxl"
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False, local_files_only=True)
    with torch.inference_mode():
        out = pipe(
            "a man",
            num_inference_steps=2,
            guidance_scale=5,
            width=64,
            height=64,
            output_type="np",
            generator=torch.Generator().manual_seed(2),
        ).images[0]
    assert np.array_equal(image, np.clip(out * 255, 0, 255).round().astype(np.uint8))
    [scaled] = images(method, request(method, "a man", 2, scale=0))
    [adapted] = images(method, request(method, "a man", 2, controlnet_scale=0))
    assert min(apart(image, scaled), apart(image, adapted)) > CLOSE


def test_the_face_lies_where_the_frame_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keypoints, "SHORT", 64)
    monkeypatch.setattr(keypoints, "LONG", 128)
    method = ready_face("instantid")
    tall = person(1, (128, 256))
    asked = request(method, "a man", 0, tall)
    assert method.size(asked) == (64, 64)
    whole = request(method, "a man", 0, tall, frame="reference")
    assert method.size(whole) == (64, 128)
    made = method.generate([whole])[0]
    assert made.image.shape == (128, 64, 3)
    assert made.facts["size"] == [64, 128]
    # Half as large, at its own place; and in the frame that was asked for, cut about the face.
    assert np.array_equal(method.control(whole), keypoints.drawn(tall.face.kps / 2, (64, 128)))
    middle = (tall.face.box[1] + tall.face.box[3]) / 4 - 32
    assert np.array_equal(method.control(asked), keypoints.drawn(tall.face.kps / 2 - [0, middle], (64, 64)))
    # References of two shapes in one batch.
    wide = request(method, "a man", 1, person(2, (256, 128)), frame="reference")
    assert [one.image.shape for one in method.generate([whole, wide])] == [(128, 64, 3), (64, 128, 3)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base": tiny("sd15")}, "is a StableDiffusionPipeline, and this method runs on StableDiffusionXLPipeline"),
        ({"controlnet": tiny("sdxl")}, "has no ControlNetModel"),
        ({"adapter": tiny("faceid-sdxl", "ip-adapter-faceid_sdxl.bin")}, "IP-Adapter of another kind"),
        ({"adapter": tiny("instantid", "ControlNetModel/diffusion_pytorch_model.safetensors")}, "does not fit"),
        ({"adapter": tiny("instantid", "none.bin")}, "none.bin"),
    ],
)
def test_other_files_for_instantid_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(MissingError, match=says):
        loaded("instantid", {**INSTANTID, **change})


def test_a_projection_that_is_not_whole_is_refused(tiny: Zoo) -> None:
    broken = tiny.mirror / "tiny" / "instantid-broken"
    shutil.copytree(tiny.mirror / "tiny" / "instantid", broken, dirs_exist_ok=True)
    state = torch.load(broken / "ip-adapter.bin", weights_only=True)
    del state["image_proj"]["layers.2.0.to_kv.weight"]
    torch.save(state, broken / "ip-adapter.bin")
    adapter = {"model": "hf:tiny/instantid-broken", "options": {"file": "ip-adapter.bin"}}
    with pytest.raises(MissingError, match=r"1 missing \(layers\.2\.0\.to_kv\.weight\)"):
        loaded("instantid", {**INSTANTID, "adapter": adapter})


def test_a_word_that_is_replaced_by_itself_changes_nothing() -> None:
    from idtool.generate.arc2face import encoded

    method = ready_face("arc2face")
    encoder = method.pipe.text_encoder
    with torch.inference_mode():
        plain = encoder(method.ids).last_hidden_state
        own = encoder.get_input_embeddings()(method.ids)[:, method.place]
        assert torch.equal(encoded(encoder, method.ids, method.place, own, "cpu"), plain)
        faces = torch.nn.functional.normalize(torch.randn(2, 512), dim=-1)
        found = encoded(encoder, method.ids, method.place, faces, "cpu")
        assert torch.equal(encoder(method.ids).last_hidden_state, plain), "nothing of the face stays behind"
    # The tower looks back alone: what stands before the face is as it was.
    assert torch.allclose(found[:, : method.place], plain[:, : method.place].expand(2, -1, -1), atol=1e-6)
    assert not torch.allclose(found[0, method.place :], found[1, method.place :])


def test_the_face_stands_padded_in_its_place() -> None:
    method = ready_face("arc2face")
    seen: list[Any] = []
    handle = method.pipe.text_encoder.embeddings.register_forward_hook(lambda _, __, out: seen.append(out))
    somebody = person(3)
    method.arguments([request(method, "", 0, somebody)])
    handle.remove()
    embeddings = method.pipe.text_encoder.embeddings
    vector = torch.from_numpy(method.face.unit([somebody]))[0]
    position = embeddings.position_embedding.weight[method.place]
    assert torch.allclose(seen[0][0, method.place, :512] - position[:512], vector, atol=1e-6)
    assert torch.allclose(seen[0][0, method.place, 512:], position[512:], atol=1e-6)


def test_arc2face_reads_no_prompt() -> None:
    method = ready_face("arc2face")
    somebody = person(3)
    [one] = images(method, request(method, "a man in the rain", 0, somebody))
    [two] = images(method, request(method, "a woman at sea", 0, somebody))
    [other] = images(method, request(method, "a man in the rain", 0, person(4)))
    assert np.array_equal(one, two)
    assert apart(one, other) > CLOSE
    with pytest.raises(Rejected, match="set guidance above 1"):
        method.check(request(method, "", 0, guidance=1, negative="fog"))


def test_the_encoder_may_come_as_a_file_of_an_older_library(tiny: Zoo) -> None:
    from safetensors.torch import load_file

    folder = tiny.mirror / "tiny" / "arc2face-split"
    shutil.copytree(tiny.mirror / "tiny" / "arc2face", folder, dirs_exist_ok=True)
    state = load_file(folder / "encoder" / "model.safetensors")
    (folder / "encoder" / "model.safetensors").unlink()
    older = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}
    older["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save(older, folder / "encoder" / "pytorch_model.bin")
    bound = {
        **ARC2FACE,
        "adapter": {"model": "hf:tiny/arc2face-split"},
        "encoder": {"model": "hf:tiny/arc2face-split", "options": {"file": "encoder/pytorch_model.bin"}},
    }
    method, usual = loaded("arc2face", bound), ready_face("arc2face")
    [one], [two] = images(method, request(method, "", 0)), images(usual, request(usual, "", 0))
    assert np.array_equal(one, two)
    del older["text_model.final_layer_norm.bias"]
    torch.save(older, folder / "encoder" / "pytorch_model.bin")
    with pytest.raises(MissingError, match=r"1 missing \(final_layer_norm\.bias\)"):
        loaded("arc2face", bound)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base": tiny("sdxl")}, "is a StableDiffusionXLPipeline, and this method runs on StableDiffusionPipeline"),
        ({"adapter": tiny("instantid")}, "has no arc2face/config.json"),
    ],
)
def test_other_files_for_arc2face_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(MissingError, match=says):
        loaded("arc2face", {**ARC2FACE, **change})
