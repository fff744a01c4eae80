"""CLIP-T, CLIPScore and CLIP-I: the numbers of torchmetrics and of plain transformers on the same weights, each on its
scale, and what is said where there is none."""

from __future__ import annotations

import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.operator import Context
from idtool.engine.step import Binding, Env
from idtool.evaluate.measures.base import Item
from idtool.evaluate.measures.clip import Clip
from idtool.evaluate.measures.ranked import CLIPS, FEATURES, PROMPT_CLIPS, Clip3
from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.clip import ClipI, ClipScore, ClipScoreW, ClipT, PromptCut
from idtool.evaluate.samples import Sample
from tests.evaluate.offline import env, sample
from tests.evaluate.tiny_networks import bound, photo, row, scored
from tests.models.test_clip import Unwrapped
from tests.zoo import Zoo

NAMES = ("cc_sunak.jpg", "freeman.jpg", "lifeifei.jpg")
TEXTS = ("a man in a suit", "a wall of bricks", "a dog")
NETWORKS = ("vit-w32-8-32", "tiny-clip-random", "siglip2-w32-16-naflex")


@pytest.fixture(scope="module")
def paths(fixtures: Path) -> list[Path]:
    return [fixtures / "singles" / name for name in NAMES]


def one(image: Any, text: Any = None, *references: Any, prompt: str = "a dog", cut: int = 0) -> Sample:
    plain = sample({"clip_embedding": image}, *({"clip_embedding": each} for each in references), prompt=prompt)
    return Sample(plain.row, plain.image, plain.references, {"text_embedding": text, "text_cut": cut})


def test_three_scales_of_one_cosine() -> None:
    along, against = one([0.6, 0.8], [1.0, 0.0]), one([-0.6, 0.8], [1.0, 0.0])
    assert [metric(along) for metric in (ClipT(), ClipScore(), ClipScoreW())] == pytest.approx([0.6, 60, 1.5])
    assert [metric(against) for metric in (ClipT(), ClipScore(), ClipScoreW())] == pytest.approx([-0.6, 0, 0])
    labels = {"clip": "vit-l-14"}
    names = [metric.name(labels) for metric in (ClipT(), ClipScore(), ClipScoreW())]
    assert names == ["clip_t/vit-l-14@raw", "clipscore/vit-l-14@x100", "clipscore_w/vit-l-14@w2.5"]
    for metric in (ClipT(), ClipScore(), ClipScoreW()):
        low, high = metric.bounds
        assert low <= metric(against) <= metric(along) <= high


def test_clip_i_is_the_mean_over_all_references() -> None:
    assert ClipI()(one([1.0, 0.0], None, [1.0, 0.0], [0.6, 0.8])) == pytest.approx(0.8)
    assert ClipI()(one([1.0, 0.0], None, [3.0, 0.0])) == pytest.approx(1), "length does not count"


def test_why_there_is_no_number() -> None:
    with pytest.raises(Unscored, match="no prompt"):
        ClipT()(one([1.0, 0.0], [1.0, 0.0], prompt=""))
    with pytest.raises(Unscored, match="no reference"):
        ClipI()(one([1.0, 0.0]))
    with pytest.raises(Unscored, match="reference 2 has no clip_embedding"):
        ClipI()(one([1.0, 0.0], None, [1.0, 0.0], None))
    with pytest.raises(Unscored, match="no direction"):
        ClipI()(one([1.0, 0.0], None, [0.0, 0.0]))
    with pytest.raises(Unscored, match="needs role clip; profile offline binds none"):
        ClipT.instances(env())


def test_a_cut_prompt_is_counted() -> None:
    assert [PromptCut()(one([1.0], [1.0], cut=cut)) for cut in (0, 1, 40)] == [0, 1, 1]


def test_further_networks_are_measures_of_their_own() -> None:
    assert [cls.name for cls in CLIPS] == ["clip", "clip2", "clip3"]
    assert [cls.writes.names for cls in PROMPT_CLIPS] == [
        ["text_embedding", "text_cut"],
        ["text_embedding2", "text_cut2"],
        ["text_embedding3", "text_cut3"],
    ]
    assert [cls.rank for cls in FEATURES] == [0, 1, 2]
    assert Clip3.writes.field(0).metadata[b"doc"].endswith(b", by the third network")
    assert Clip3.summary != Clip.summary
    for cls in (*CLIPS, *PROMPT_CLIPS, *FEATURES):
        assert type(pickle.loads(pickle.dumps(cls(None)))) is cls, "workers get them pickled"  # noqa: S301


def test_a_failure_of_a_further_network_is_that_rows_own(tiny: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is of the first: what is not finite is an error, not a renamed mapping."""
    surroundings = bound(tiny, "features", most=2)
    measure = FEATURES[1].made(surroundings)
    measure.load(Context(run_dir=""))
    monkeypatch.setattr(measure.model, "images", lambda images: np.array([[1.0, 2.0], [np.nan, 0.0]], np.float32))
    good, bad = measure([Item({}, np.zeros((8, 8, 3), np.uint8)), Item({}, np.zeros((8, 8, 3), np.uint8))])
    assert isinstance(good, dict) and list(good) == ["features_embedding2"]
    assert isinstance(bad, ValueError)


def test_clipscore_is_that_of_torchmetrics(tiny: Zoo, tmp_path: Path, paths: list[Path]) -> None:
    """On all pairs of three photos and three texts, by two networks at once: the second has the first one's texts
    turned around, for those cosines are negative. See tests/models/test_clip.py for why torchmetrics gets it wrapped.
    """
    torch, functional = pytest.importorskip("torch"), pytest.importorskip("torchmetrics.functional.multimodal")
    from safetensors.torch import load_file, save_file
    from transformers import AutoProcessor, CLIPModel

    surroundings = bound(tiny, "clip", most=1)
    turned = Path(shutil.copytree(tiny("clip"), tiny.mirror / "tiny" / "turned", dirs_exist_ok=True))
    state = load_file(turned / "model.safetensors")
    state["text_projection.weight"] *= -1
    save_file(state, turned / "model.safetensors", metadata={"format": "pt"})
    both = Env("tiny", {"clip": (*surroundings.all("clip"), Binding("clip", "hf:tiny/turned"))})
    pairs = [(path, text) for path in paths for text in TEXTS]
    rows = [row(str(k), path, prompt=text) for k, (path, text) in enumerate(pairs)]
    found = scored(tmp_path, both, ["clip_t", "clipscore", "clipscore_w"], rows)
    signs = []
    for folder, name in ((tiny("clip"), NETWORKS[0]), (turned, f"{NETWORKS[0]}-2")):
        towers = Unwrapped(CLIPModel.from_pretrained(folder).eval()), AutoProcessor.from_pretrained(folder)
        tensors = {path: torch.from_numpy(photo(path).transpose(2, 0, 1).copy()) for path in paths}
        given = partial(tuple, towers)
        with torch.inference_mode():
            theirs = [float(functional.clip_score(tensors[path], text, given)) for path, text in pairs]
        np.testing.assert_allclose(found.of(f"clipscore/{name}@x100"), theirs, atol=1e-3)
        cosines = np.array(found.of(f"clip_t/{name}@raw"))
        np.testing.assert_allclose(np.maximum(100 * cosines, 0), theirs, atol=1e-3)
        np.testing.assert_allclose(found.of(f"clipscore_w/{name}@w2.5"), np.maximum(2.5 * cosines, 0), atol=1e-9)
        signs.append(float(np.sign(cosines).mean()))
    assert signs == [-1, 1], "both signs, or this says nothing of the cut at 0"


def test_clip_i_is_that_of_transformers(tiny: Zoo, tmp_path: Path, paths: list[Path]) -> None:
    """The image with two references, by each network as its library runs it."""
    import torch
    from transformers import AutoProcessor, CLIPModel, Siglip2Model

    surroundings = bound(tiny, "clip")
    found = scored(tmp_path, surroundings, ["clip_i"], [row("a", paths[0], paths[1:]), row("b", paths[1], paths[1:2])])
    assert found.names == [f"clip_i/{name}" for name in NETWORKS]
    pictures = [photo(path) for path in paths]
    for name, cls, label in (("clip", CLIPModel, NETWORKS[0]), ("siglip2", Siglip2Model, NETWORKS[2])):
        folder = tiny(name)
        inputs = AutoProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt")
        with torch.inference_mode():
            features = cls.from_pretrained(folder).eval().get_image_features(**inputs).pooler_output
        theirs = torch.nn.functional.cosine_similarity(features[:1], features[1:]).mean()
        assert found.of(f"clip_i/{label}") == pytest.approx([float(theirs), 1], abs=1e-4)


def test_every_bound_network_judges_and_cut_prompts_are_scored_by_their_beginning(
    tiny: Zoo, tmp_path: Path, paths: list[Path]
) -> None:
    surroundings = bound(tiny, "clip")
    long = " ".join(["dog"] * 200)
    prompts = {"a": "a dog", "b": long, "c": f"{long} and a cat", "d": ""}
    found = scored(
        tmp_path,
        surroundings,
        ["clip_t", "clipscore", "prompt_cut"],
        [row(key, paths[0], prompt=text) for key, text in prompts.items()],
    )
    assert found.names == [
        *(f"clip_t/{name}@raw" for name in NETWORKS),
        *(f"clipscore/{name}@x100" for name in NETWORKS),
        *(f"prompt_cut/{name}" for name in NETWORKS),
    ]
    for name in NETWORKS:
        short, whole, longer, none = found.of(f"clip_t/{name}@raw")
        assert whole == pytest.approx(longer, abs=1e-5) and abs(short - whole) > 1e-4
        assert none is None and found.missing[f"clip_t/{name}@raw", "d"] == "no prompt"
        assert found.of(f"prompt_cut/{name}") == [0, 1, 1, 0]
    told = found.scorer.describe()[f"clip_t/{NETWORKS[2]}@raw"]
    assert set(told["measures"]) == {"clip3", "prompt_clip3"} and told["axis"] == "prompt"
    assert [model["model"] for model in told["models"]] == ["hf:tiny/siglip2"]
