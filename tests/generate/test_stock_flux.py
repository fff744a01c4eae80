"""FLUX.1, Kontext, FLUX.2, UNO and ACE++ on tiny pipelines: through the real loading code and the run, against calls of
diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from idtool.engine.operator import Rejected
from idtool.errors import MissingError, RunFailed
from idtool.generate.requests import Wish
from tests.generate.made import run, table
from tests.generate.stock_runs import (
    CLOSE,
    FLUX,
    FLUX_CHECKPOINTS,
    agrees,
    apart,
    called,
    checkpoints,
    images,
    loaded,
    made,
    person,
    picture,
    pipelines,
    ready_flux,
    request,
    tiny,
)
from tests.zoo import Zoo

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")

mirror = checkpoints(*FLUX_CHECKPOINTS)


@pytest.mark.offline_weights
@pytest.mark.parametrize("name", list(FLUX))
def test_a_run_with_a_photo(name: str, fixtures: Path, tmp_path: Path) -> None:
    kind, models, own = FLUX[name]
    photo = str(fixtures / "identities" / "obama" / "00_face_recognition.jpg")
    config = pipelines(tmp_path, kind, models, **own)
    run("tiny", [Wish("a man", (photo,), n=2), Wish("a man", (photo,), width=72)], tmp_path / "run", config=config)
    rows = {(row["seed"], row["width"]): row for row in table(tmp_path / "run")}
    assert {key: row["status"] for key, row in rows.items()} == {
        (0, None): "kept",
        (1, None): "kept",
        (0, 72): "rejected",
    }
    assert rows[0, 72]["reason"] == "request.width"
    first = rows[0, None]
    assert (first["image_width"], first["image_height"]) == (64, 64)
    assert json.loads(first["preprocessing"])
    assert {one["slot"] for one in json.loads(first["models"])} == set(models)
    if name in ("flux", "schnell"):
        assert json.loads(first["facts"]) == {"references": "not looked at"}


@pytest.mark.parametrize("name", list(FLUX))
def test_a_batch_of_four_is_four_singles(name: str) -> None:
    method = ready_flux(name)
    agrees(method, *(request(method, f"prompt {k}", k, person(k // 2)) for k in range(4)))


def test_flux_is_the_stock_pipeline_and_sees_no_reference() -> None:
    method = ready_flux("flux")
    [image] = images(method, request(method, "a man", 3))
    expected = called(method.pipe, 3, prompt="a man", guidance_scale=3.5, max_sequence_length=32)
    assert np.array_equal(image, expected)
    [other] = images(method, request(method, "a man", 3, person(8), person(9)))
    assert np.array_equal(image, other)
    nobody = method.generate([request(method, "a man", 3, people=())])[0]
    assert np.array_equal(nobody.image, image)
    assert nobody.facts == {}
    long = method.generate([request(method, "word " * 40, 3)])[0]
    assert long.facts["prompt_cut"]["tokenizer_2"] > 0
    assert long.facts["prompt_cut"]["tokenizer"] > 0


def test_a_negative_prompt_counts_or_is_refused() -> None:
    method = ready_flux("flux")
    with pytest.raises(Rejected, match="set true_guidance above 1"):
        method.check(request(method, "a man", 0, negative="fog"))
    guided = request(method, "a man", 0, negative="fog", true_guidance=4)
    method.check(guided)
    plain = request(method, "a man", 0)
    assert apart(images(method, guided)[0], images(method, plain)[0]) > CLOSE
    for name in ("klein", "ace"):
        other = made(*FLUX[name][:2])
        with pytest.raises(Rejected, match="none"):
            other.check(request(other, "a man", 0, negative="fog"))


@pytest.mark.parametrize(
    ("name", "base", "says"),
    [
        ("flux", "flux-kontext", "is a FluxKontextPipeline, and this method runs on FluxPipeline"),
        ("kontext", "flux", "is a FluxPipeline, and this method runs on FluxKontextPipeline"),
        ("klein", "flux2", "is a Flux2Pipeline, and this method runs on Flux2KleinPipeline"),
        ("ace", "flux", "runs on FluxFillPipeline"),
        ("uno", "flux-fill", "takes 384 channels a token"),
        ("flux", "uno", "no diffusers pipeline: it has no model_index.json"),
    ],
)
def test_another_base_is_refused(name: str, base: str, says: str) -> None:
    kind, models, own = FLUX[name]
    with pytest.raises(MissingError, match=says):
        loaded(kind, {**models, "base": tiny(base)}, **own)


@pytest.mark.offline_weights
def test_a_network_that_gives_nan_is_told_on_each_row(tiny: Zoo, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tiny.mirror / "tiny" / "flux-nan"
    shutil.copytree(tiny.mirror / "tiny" / "flux", broken, dirs_exist_ok=True)
    file = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["proj_out.bias"][:] = float("nan")
    save_file(state, file, metadata={"format": "pt"})
    config = pipelines(tmp_path, "flux", {"base": {"model": "hf:tiny/flux-nan"}}, text_length=32)
    with pytest.raises(RunFailed, match="kept none of its 4 rows"):
        run("tiny", [Wish("a man", n=4)], tmp_path / "run", config=config, max_error_rate=1.0)
    for row in table(tmp_path / "run"):
        assert row["status"] == "error"
        assert "not finite" in row["message"]


def test_kontext_keeps_to_the_sizes_that_are_said() -> None:
    from PIL import Image

    method = ready_flux("kontext")
    somebody = person(1, (90, 120))
    one = request(method, "a man", 0, somebody, width=96, height=48)
    [image] = images(method, one)
    assert image.shape == (48, 96, 3)
    assert method.generate([one])[0].facts["reference_size"] == [48, 80]
    [square] = images(method, request(method, "a man", 0, somebody))
    expected = called(
        method.pipe,
        0,
        prompt="a man",
        image=Image.fromarray(somebody.image).resize((48, 80), Image.Resampling.LANCZOS),
        guidance_scale=2.5,
        max_sequence_length=32,
        max_area=64 * 64,
        _auto_resize=False,
    )
    assert np.array_equal(square, expected)
    # References of two shapes go into two calls, and come back in order.
    agrees(method, *(request(method, "a man", k, person(k, size)) for k, size in enumerate([(90, 120), (120, 90)] * 2)))


@pytest.mark.parametrize("name", ["klein", "flux2"])
def test_flux2_takes_several_references(name: str) -> None:
    from PIL import Image

    method = ready_flux(name)
    two = (person(1, (64, 64)), person(2, (320, 240)))
    [both] = images(method, request(method, "two men", 0, *two))
    sizes = [(64, 64), (209, 156)]
    shown = [
        Image.fromarray(one.image).resize(size, Image.Resampling.LANCZOS) for one, size in zip(two, sizes, strict=True)
    ]
    length = FLUX[name][2]["text_length"]
    guidance = 1.0 if name == "klein" else 4.0
    expected = called(
        method.pipe, 0, prompt="two men", image=shown, guidance_scale=guidance, max_sequence_length=length
    )
    assert np.array_equal(both, expected)
    [first] = images(method, request(method, "two men", 0, two[0]))
    [turned] = images(method, request(method, "two men", 0, *reversed(two)))
    assert apart(both, first) > CLOSE
    assert apart(both, turned) > CLOSE
    with pytest.raises(Rejected, match="takes sides of 64 px or more") as caught:
        method.check(request(method, "a man", 0, person(1, (600, 63))))
    assert caught.value.reason == "reference.shape"
    cut = method.generate([request(method, "word " * 200, 0, two[0])])[0].facts["prompt_cut"]
    assert cut["tokenizer"] > 0


@pytest.mark.offline_weights
def test_threads_that_share_a_pipeline_take_turns(fixtures: Path, tmp_path: Path) -> None:
    """The run's threads have one pipeline, whose scheduler counts steps: what is kept is what each request gives."""
    photo = fixtures / "identities" / "obama" / "00_face_recognition.jpg"
    config = pipelines(tmp_path, *FLUX["flux"][:2], text_length=32)
    wishes = [Wish("a man", (str(photo),), seed=seed) for seed in range(8)]
    run("tiny", wishes, tmp_path / "run", config=config, workers=4, run={"batch": 1, "shard": 1})
    method = ready_flux("flux")
    for seed in range(8):
        [alone] = images(method, request(method, "a man", seed))
        assert apart(picture(tmp_path / "run", seed), alone) <= CLOSE
