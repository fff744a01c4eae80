"""Qwen-Image-Edit, for one picture and for several, on tiny pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.operator import Rejected
from idtool.errors import MissingError, UsageError
from idtool.generate.requests import Wish
from tests.generate.made import run, table
from tests.generate.stock_runs import (
    CLOSE,
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

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")

SIDE = 64
BASES = ["qwen-edit", "qwen-edit-plus"]


mirror = checkpoints(*BASES, "flux")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """References at 64 px in place of the megapixel that the pipelines have written into them."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as one
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as several

    monkeypatch.setattr(several, "VAE_IMAGE_SIZE", SIDE * SIDE)
    monkeypatch.setattr(several, "CONDITION_IMAGE_SIZE", SIDE * SIDE)
    calculate = one.calculate_dimensions
    monkeypatch.setattr(one, "calculate_dimensions", lambda _, ratio: calculate(SIDE * SIDE, ratio))


def ready_qwen(base: str) -> Any:
    return ready("qwen-image-edit", {"base": tiny(base)})


@pytest.mark.offline_weights
@pytest.mark.parametrize("base", BASES)
def test_a_run_with_photos(base: str, fixtures: Path, tmp_path: Path) -> None:
    photos = [str(fixtures / "identities" / name / "00_face_recognition.jpg") for name in ("obama", "biden")]
    config = pipelines(tmp_path, "qwen-image-edit", {"base": tiny(base)})
    wishes = [Wish("a man", (photos[0],)), Wish("two men", tuple(photos)), Wish("", (photos[0],))]
    run("tiny", wishes, tmp_path / "run", config=config)
    rows = {row["prompt"]: row for row in table(tmp_path / "run")}
    assert rows["a man"]["status"] == "kept"
    assert (rows["a man"]["image_width"], rows["a man"]["image_height"]) == (64, 64)
    assert json.loads(rows["a man"]["method_settings"])["true_guidance"] == 4
    assert rows[""]["reason"] == "request.prompt"
    two = rows["two men"]
    if base == "qwen-edit-plus":
        assert two["status"] == "kept"
    else:
        assert (two["status"], two["reason"]) == ("rejected", "request.people")
        assert "-2511 take several" in two["message"]


@pytest.mark.parametrize("base", BASES)
def test_the_pipeline_is_the_one_that_the_base_names(base: str) -> None:
    from PIL import Image

    method = ready_qwen(base)
    expected = {"qwen-edit": "QwenImageEditPipeline", "qwen-edit-plus": "QwenImageEditPlusPipeline"}
    assert type(method.pipe).__name__ == expected[base]
    [image] = images(method, request(method, "a man", 3))
    shown = Image.fromarray(person(3).image)
    with torch.inference_mode():
        out = method.pipe(
            image=shown if base == "qwen-edit" else [shown],
            prompt="a man",
            negative_prompt=" ",
            true_cfg_scale=4.0,
            width=64,
            height=64,
            num_inference_steps=2,
            output_type="np",
            generator=torch.Generator().manual_seed(3),
        ).images[0]
    assert np.array_equal(image, np.clip(out * 255, 0, 255).round().astype(np.uint8))


@pytest.mark.parametrize("base", BASES)
def test_a_batch_of_four_is_four_singles(base: str) -> None:
    method = ready_qwen(base)
    agrees(method, *(request(method, f"prompt {k}", k) for k in range(4)))


def test_references_are_shown_in_order() -> None:
    method = ready_qwen("qwen-edit-plus")
    one, two = person(1), person(2, (80, 160))
    both = request(method, "two", 0, one, two)
    shown = method.arguments([both])["image"]
    assert [np.array_equal(np.asarray(a), b.image) for a, b in zip(shown, (one, two), strict=True)] == [True, True]
    assert apart(images(method, both)[0], images(method, request(method, "two", 0, one))[0]) > CLOSE


def test_negative_prompts_count_where_there_is_guidance() -> None:
    method = ready_qwen("qwen-edit-plus")
    [plain] = images(method, request(method, "a man", 0))
    [fog] = images(method, request(method, "a man", 0, negative="fog"))
    assert apart(plain, fog) > CLOSE
    # Without guidance, the blank that stands in the settings is no wish, anything else is.
    method.check(request(method, "a man", 0, true_guidance=1))
    [unguided] = images(method, request(method, "a man", 0, true_guidance=1))
    assert apart(plain, unguided) > CLOSE
    with pytest.raises(Rejected, match="set true_guidance above 1"):
        method.check(request(method, "a man", 0, negative="fog", true_guidance=1))


def test_bad_set_ups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="is a FluxPipeline, and this method runs on QwenImageEditPlusPipeline or"):
        loaded("qwen-image-edit", {"base": tiny("flux")})
    config = pipelines(tmp_path, "qwen-image-edit", {"base": tiny("qwen-edit")}, steps=1)
    with pytest.raises(UsageError, match="steps"):
        run("tiny", [Wish("a man", ("/x.png",))], tmp_path / "run", config=config)
