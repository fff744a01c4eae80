"""Drawing parts of pictures anew, on tiny checkpoints of the real pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.errors import MissingError, UsageError
from idtool.models.fill import Fill, fitted, pipeline_of
from idtool.models.sources import Weights
from tests.curate.media import picture
from tests.zoo import Zoo

LORA = {"lora": "hf:tiny/ace-plus", "lora_file": "portrait/comfyui_portrait_lora64.safetensors"}


def network(tiny: Zoo, name: str, **options: Any) -> Fill:
    return Fill(Weights(f"hf:tiny/{name}", tiny(name)), **options)


def square(height: int = 90, width: int = 100) -> np.ndarray:
    mask = np.zeros((height, width), np.bool_)
    mask[30:60, 20:70] = True
    return mask


@pytest.mark.parametrize(
    ("name", "pipeline", "reference"),
    [
        ("flux-fill", "FluxFillPipeline", None),
        ("flux2-klein", "Flux2KleinInpaintPipeline", "apart"),
        ("flux", "FluxInpaintPipeline", None),
        ("sd15", "StableDiffusionInpaintPipeline", None),
    ],
)
def test_pictures_depend_on_what_they_are_told_and_on_nothing_else(
    name: str, pipeline: str, reference: str | None, tiny: Zoo
) -> None:
    model = network(tiny, name)
    assert type(model.pipe).__name__ == pipeline and model.reference == reference
    image, mask = picture(100, 90), square()

    def drawn(image: Any = image, mask: Any = mask, prompt: str = "she smiles", seed: int = 7, **more: Any) -> Any:
        return model(image, mask, prompt, seed, **{"steps": 2, **more})

    first = drawn()
    assert first.shape == image.shape and first.dtype == np.uint8 and first.std() > 1
    assert (drawn() == first).all()
    others: list[dict[str, Any]] = [
        {"prompt": "a knight"},
        {"seed": 8},
        {"mask": ~mask},
        {"image": picture(100, 90, 1)},
    ]
    for other in [*others, {"steps": 3}]:
        assert (drawn(**other) != first).any(), list(other)
    if reference == "apart":
        assert (drawn(reference=picture(80, 80, 5)) != first).any()
    else:
        with pytest.raises(ValueError, match="takes no reference"):
            drawn(reference=picture(80, 80, 5))
    with pytest.raises(ValueError, match="a mask of"):
        drawn(mask=mask[:-1])
    with pytest.raises(ValueError, match="marks something"):
        drawn(mask=np.zeros_like(mask))
    with pytest.raises(ValueError, match="64 px or more"):
        drawn(image=image[:50], mask=mask[:50])


def test_a_lora_changes_what_is_drawn_as_the_method_of_ace_plus_does_it(tiny: Zoo) -> None:
    """By PEFT here, by our own hooks there: two ways to the same numbers."""
    from idtool.generate.flux_loras import flux_lora

    tiny("ace-plus")
    plain, changed = network(tiny, "flux-fill"), network(tiny, "flux-fill", **LORA)
    assert changed.reference == "beside" and plain.reference is None
    image, mask = picture(100, 90), square()

    def drawn(model: Fill) -> np.ndarray:
        return model(image, mask, "she smiles", 7, steps=2, guidance=20.0)

    before, after = drawn(plain), drawn(changed)
    assert (before != after).any()
    path = tiny.mirror / "tiny" / "ace-plus" / LORA["lora_file"]
    lora = flux_lora(Weights("hf:tiny/ace-plus", path), plain.pipe.transformer)
    lora.attach(plain.pipe.transformer)
    lora.mask = 1.0
    assert np.abs(drawn(plain).astype(int) - after).max() <= 1
    facts = changed.fingerprint()
    assert facts["lora"]["model"] == "hf:tiny/ace-plus" and len(facts["lora"]["sha256"]) == 64
    assert "lora" not in network(tiny, "flux-fill").fingerprint()


def test_loras_of_other_networks_are_refused(tiny: Zoo, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from tests.zoo.adapters import kohya_layers, kohya_state

    tiny("ace-plus")
    with pytest.raises(MissingError, match="is not on this machine"):
        network(tiny, "flux-fill", lora="hf:tiny/ace-plus", lora_file="none.safetensors")
    with pytest.raises(MissingError, match="takes no LoRA"):
        network(tiny, "sd15", **LORA)
    path = tmp_path / "deeper.safetensors"
    save_file(kohya_state(kohya_layers(doubles=3)), path)
    with pytest.raises(MissingError, match=r"layers that the network has not \(transformer_blocks\.2"):
        network(tiny, "flux-fill", lora=f"local:{path}")


def test_large_pictures_are_shown_smaller_and_come_back_whole(tiny: Zoo) -> None:
    image, mask = picture(500, 300), np.zeros((300, 500), np.bool_)
    mask[0, 0] = True
    shown, marked = fitted(image, mask, 128 * 128)
    assert shown.shape == (96, 160, 3) and marked.shape == (96, 160)
    # The one pixel is not lost, and marks no more than what lies over it.
    assert marked[0, 0] and marked.sum() == 1
    same, kept = fitted(image, mask, 512 * 304)
    assert same is image and kept is mask
    out = network(tiny, "flux-fill", area=128 * 128)(image, mask, "x", 1, steps=1)
    assert out.shape == image.shape
    with pytest.raises(UsageError, match="Option `area`"):
        network(tiny, "flux-fill", area=100)


def test_checkpoints_without_an_inpainting_pipeline_are_refused(tiny: Zoo) -> None:
    with pytest.raises(MissingError, match="cannot be loaded"):
        network(tiny, "flux-kontext")
    with pytest.raises(MissingError, match="no diffusers pipeline"):
        network(tiny, "bisenet")
    assert pipeline_of("Flux2KleinPipeline") == pipeline_of("Flux2KleinInpaintPipeline") == "Flux2KleinInpaintPipeline"
    assert pipeline_of("StableDiffusionXLInpaintPipeline") == "StableDiffusionXLInpaintPipeline"
    assert pipeline_of("QwenImagePipeline") == "AutoPipelineForInpainting"


def test_authors_values_stand_in_where_none_are_given(tiny: Zoo) -> None:
    tiny("ace-plus")
    assert network(tiny, "flux-fill")._usual() == (50, 30.0)
    assert network(tiny, "flux-fill", **LORA)._usual() == (28, 50.0)
    assert network(tiny, "flux2-klein")._usual() == (4, 1.0)
    assert network(tiny, "flux")._usual() == (None, None)
