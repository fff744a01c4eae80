"""CLIP and open_clip checkpoints that are broken, half there, or of another kind: refused with what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.errors import MissingError
from tests.models.test_clip import change, copied, model
from tests.zoo import Zoo

IMAGE = np.full((40, 50, 3), 99, np.uint8)

_CONFIGURATIONS = ("config.json", "open_clip_config.json")


def damage(folder: Path, how: str) -> None:
    from safetensors.torch import load_file, save_file

    weights = next(folder.glob("*.safetensors"))
    if how == "half":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif how == "tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "processor":
        (folder / "preprocessor_config.json").unlink()
    elif how == "configuration":
        next(path for path in folder.glob("*config.json") if path.name in _CONFIGURATIONS).unlink()
    elif how == "gone":
        weights.unlink()
    else:
        state = load_file(weights)
        name = next(name for name in state if name.endswith("post_layernorm.weight") or name == "visual.ln_post.weight")
        if how == "tensor":
            del state[name]
        else:
            state[name][:] = float("nan")
        save_file(state, weights, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        ("clip", "half", "cannot be loaded"),
        ("clip", "tokenizer", "tokenizer of model hf:tiny/broken.* is not there"),
        ("clip", "processor", "image processor of model hf:tiny/broken.* cannot be loaded"),
        ("clip", "configuration", "configuration of model hf:tiny/broken.* cannot be loaded"),
        ("clip", "gone", "cannot be loaded|cannot be had|not on this machine"),
        ("clip", "tensor", "does not fit its network: 1 missing"),
        ("open_clip", "half", "cannot be loaded"),
        ("open_clip", "tensor", "cannot be loaded: .*visual.ln_post.weight"),
        ("open_clip", "configuration", "open_clip_config.json.* cannot be loaded"),
        ("open_clip", "gone", "holds no weights|not on this machine"),
    ],
)
def test_broken_checkpoints_are_refused(tiny: Zoo, name: str, how: str, said: str) -> None:
    folder = copied(tiny(name), tiny.mirror, f"broken-{name}-{how}")
    damage(folder, how)
    with pytest.raises(MissingError, match=said):
        model(f"hf:tiny/broken-{name}-{how}", **({"format": "open_clip"} if name == "open_clip" else {}))


@pytest.mark.parametrize("name", ["clip", "open_clip"])
def test_nan_is_an_error(tiny: Zoo, name: str) -> None:
    damage(copied(tiny(name), tiny.mirror, f"nan-{name}"), "nan")
    ours = model(f"hf:tiny/nan-{name}", **({"format": "open_clip"} if name == "open_clip" else {}))
    with pytest.raises(ValueError, match="not finite"):
        ours.images([IMAGE])


def test_other_models_are_refused(tiny: Zoo) -> None:
    tiny("dino")
    with pytest.raises(MissingError, match="type 'vit', not a CLIP or SigLIP"):
        model("hf:tiny/dino")
    folder = copied(tiny("siglip2"), tiny.mirror, "strange-tokens")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny("clip") / name, folder)
    with pytest.raises(MissingError, match=r"gives token 5.., but its text tower has 303 tokens"):
        model("hf:tiny/strange-tokens")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision_cfg": {"image_size": 64}}, "visual.positional_embedding .17, 16. in place of .65, 16."),
        ({"embed_dim": 16}, "of another shape"),
        ({"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}}, "asks to run code"),
    ],
)
def test_an_open_clip_configuration_that_does_not_fit(tiny: Zoo, changes: dict[str, Any], said: str) -> None:
    folder = copied(tiny("open_clip"), tiny.mirror, f"misfit-{next(iter(changes))}")
    change(folder, **changes)
    with pytest.raises(MissingError, match=said):
        model(f"hf:tiny/{folder.name}", format="open_clip")


def test_weights_of_openai_need_quick_gelu(tiny: Zoo) -> None:
    there = tiny.mirror / "open_clip"
    shutil.copytree(tiny("open_clip"), there / "ViT-B-32-quickgelu" / "openai", dirs_exist_ok=True)
    assert model("open_clip:ViT-B-32-quickgelu/openai").label == "vit-b-32"
    plain = Path(shutil.copytree(tiny("open_clip"), there / "ViT-B-16" / "openai", dirs_exist_ok=True))
    change(plain, quick_gelu=False)
    with pytest.raises(MissingError, match="does not say so, but weights of this tag need QuickGELU"):
        model("open_clip:ViT-B-16/openai")
