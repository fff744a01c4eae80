"""Measures by models of the zoo: columns, widths, neighbours that change nothing, one run of a shared tower."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from idtool.engine.operator import Context
from idtool.engine.step import Binding, Env
from idtool.evaluate.measure import MeasureSettings, MeasureStep
from idtool.evaluate.measures.base import Item, looked_at, score, scores, vectors
from idtool.evaluate.measures.expression import Expression
from idtool.evaluate.measures.identity import Identity, Identity2
from idtool.evaluate.measures.nsfw import Nsfw
from idtool.models import load
from idtool.models.parts import REGIONS
from tests.zoo import Zoo, profile
from tests.zoo.face_pack import drawn_person

BLANK = np.full((480, 640, 3), (60, 110, 90), np.uint8)


def bound(zoo: Zoo, *roles: str, rank: int = 0) -> Env:
    """The tiny profile's model of each role, its checkpoint built."""
    bindings = {}
    for role in roles:
        entry = profile.ROLES[role][rank]
        options = entry.get("options", {})
        for address in (entry["model"], options.get("backbone", "")):
            if address:
                zoo("face-pack" if address == "insightface:tiny" else address.rpartition("/")[2])
        bindings[role] = (Binding(role, entry["model"], options=options),)
    return Env("tiny", bindings)


def measured(
    env: Env, folder: Path, images: Sequence[np.ndarray], *measures: str, batch: int = 16
) -> list[dict[str, Any]]:
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    step = MeasureStep(MeasureSettings(measures=measures, batch=batch), env)
    assert not step.left_out()
    assert {binding.role for binding in step.models()} == set(env.bindings)
    [operator] = step.operators()
    operator.setup(Context(run_dir=str(folder)))
    size = pa.nulls(len(paths), pa.int32())
    names = [path.name for path in paths]
    out = operator(pa.table({"id": names, "media": [str(path) for path in paths], "width": size, "height": size}))
    assert [out.schema.field(name) for name in operator.writes.names] == list(operator.writes)
    rows = out.to_pylist()
    assert {row["status"] for row in rows} == {"kept"}, [row["message"] for row in rows]
    return list(rows)


def test_whole_image_measures(tiny: Zoo, tmp_path: Path) -> None:
    env = bound(tiny, "clip", "features", "iqa", "aesthetic")
    images = [drawn_person(0), BLANK, np.random.default_rng(0).integers(0, 255, (31, 90, 3), dtype=np.uint8)]
    rows = measured(env, tmp_path, images, "clip", "features", "iqa", "aesthetic")
    clip = np.array([row["clip_embedding"] for row in rows], np.float32)
    assert clip.shape == (3, load(env.require("clip")).dim)
    assert np.linalg.norm(clip, axis=1) == pytest.approx(1, abs=1e-5)
    features = np.array([row["features_embedding"] for row in rows], np.float32)
    assert features.shape[0] == 3 and not np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-2)
    assert all(0 <= row["iqa"] <= 1 for row in rows) and len({row["aesthetic"] for row in rows}) == 3
    for number, image in enumerate(images):
        [alone] = measured(env, tmp_path, [image], "clip", "features", "iqa", "aesthetic")
        for name in ("clip_embedding", "features_embedding", "iqa", "aesthetic"):
            assert alone[name] == pytest.approx(rows[number][name], abs=1e-4)


def test_face_measures_look_at_the_largest_face_and_say_nothing_without_one(tiny: Zoo, tmp_path: Path) -> None:
    env = bound(tiny, "faces", "pose", "attributes", "parser", "identity")
    rows = measured(
        env, tmp_path, [drawn_person(0), BLANK, drawn_person(1)], "faces", "pose", "attributes", "parts", "identity"
    )
    assert [row["faces"] for row in rows] == [1, 0, 1]
    face, nobody, _ = rows
    written = [name for name in face if name.startswith(("pose_", "part_", "embedding"))] + ["age", "female"]
    assert len(written) == 3 + 10 + 2 + 2
    assert all(nobody[name] is None for name in written) and all(face[name] is not None for name in written)
    assert 0 <= face["female"] <= 1 and abs(face["pose_yaw"]) <= 180
    shares = {name: face[name] for name in face if name.startswith("part_")}
    assert all(0 <= share <= 1 for share in shares.values())
    inner = sum(face[f"part_{region}"] for region in ("eyes", "nose", "mouth"))
    assert {f"part_{region}" for region in REGIONS} <= set(shares) and face["part_face"] >= inner
    assert np.linalg.norm(face["embedding"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("rank", [1, 2])
def test_networks_with_crops_of_their_own_give_embeddings_of_their_own_width(
    rank: int, tiny: Zoo, tmp_path: Path
) -> None:
    env = bound(tiny, "identity", rank=rank)
    faces = bound(tiny, "faces")
    both = Env("tiny", {**env.bindings, **faces.bindings})
    [row] = measured(both, tmp_path, [drawn_person(0)], "faces", "identity")
    model = load(env.require("identity"))
    assert len(row["embedding"]) == model.dim and row["embedding_norm"] > 0 and len(row["face_thumb"]) == 32 * 32
    item = Item({name: row[name] for name in ("face_box", "face_kps", "face_score")}, drawn_person(0))
    [raw] = np.asarray(model.embed(np.stack(model.crops([item.image], [item.face]))))
    assert row["embedding"] == pytest.approx(raw / np.linalg.norm(raw), abs=1e-5)


def test_expression_networks_that_know_no_blendshapes_stand_alone(tiny: Zoo, tmp_path: Path) -> None:
    env = bound(tiny, "faces", "expression")
    [row] = measured(env, tmp_path, [drawn_person(0)], "faces", "expression")
    assert sum(row["expressions"]) == pytest.approx(1, abs=1e-4)
    measure = Expression(env.require("expression"))
    measure.load(Context(run_dir=""))
    known = {name: row[name] for name in ("face_box", "face_kps", "face_score")}
    [value] = measure([Item({**known, "blendshapes": [0.5] * 52}, drawn_person(0))])
    assert isinstance(value, dict) and value["expressions"] == pytest.approx(row["expressions"], abs=1e-5)


def test_an_explicit_image_classifier_names_no_part(tiny: Zoo, tmp_path: Path) -> None:
    [row] = measured(bound(tiny, "nsfw"), tmp_path, [drawn_person(0)], "nsfw")
    assert 0 <= row["nsfw"] <= 1


# -- what is shared, and numbers that are none -----------------------------------------------------------------------


class Tower:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        self.seen.append(len(images))
        return np.array([[image.mean(), 1] for image in images], np.float32)


class Head:
    def __init__(self, backbone: Tower) -> None:
        self.backbone = backbone

    def score_embeddings(self, embeddings: np.ndarray) -> np.ndarray:
        return np.asarray(embeddings[:, 0], np.float32)


def items(*levels: int) -> list[Item]:
    return [Item({}, np.full((2, 2, 3), level, np.uint8)) for level in levels]


def test_a_tower_that_several_measures_need_runs_once_per_image() -> None:
    tower, other, some = Tower(), Tower(), items(1, 2, 3)
    assert looked_at(some[:2], tower, tower.images).tolist() == [[1, 1], [2, 1]]
    assert scores(Head(tower), some).tolist() == [1, 2, 3]
    assert scores(Head(tower), some[1:]).tolist() == [2, 3]
    assert tower.seen == [2, 1]
    assert scores(Head(other), some).tolist() == [1, 2, 3] and other.seen == [3]


def test_a_number_that_is_none_is_the_error_of_its_row() -> None:
    first, second = score("iqa", [0.5, float("nan")])
    assert first == {"iqa": 0.5} and isinstance(second, ValueError)
    one, none, long = vectors("v", np.array([[3, 4], [0, 0], [np.inf, 1]], np.float32), unit=True)
    assert isinstance(one, dict) and one["v"].tolist() == pytest.approx([0.6, 0.8])
    assert isinstance(none, ValueError) and isinstance(long, ValueError)
    raw, zero = vectors("v", np.array([[3, 4], [0, 0]], np.float32), unit=False)
    assert isinstance(raw, dict) and raw["v"].tolist() == [3, 4] and isinstance(zero, dict)


def test_an_embedding_without_a_direction_is_the_error_of_its_row() -> None:
    class Network:
        alignment = "own"

        def crops(self, images: Any, faces: Any) -> list[Any]:
            return list(images)

        def embed(self, crops: np.ndarray) -> np.ndarray:
            return np.array([[crop.mean(), 0, 0] for crop in crops], np.float32)

    row = {"face_box": [0, 0, 100, 100], "face_kps": [30, 40, 70, 40, 50, 60, 35, 80, 65, 80], "face_score": 0.9}
    faces = [Item(row, np.full((100, 100, 3), level, np.uint8)) for level in (0, 7)]
    for measure, column in ((Identity(), "embedding"), (Identity2(), "embedding2")):
        measure.model = Network()
        lost, kept = measure(faces)
        assert isinstance(lost, ValueError) and isinstance(kept, dict) and list(kept[column]) == [1, 0, 0]


def test_a_score_of_explicitness_that_is_none_is_the_error_of_its_row() -> None:
    class Score:
        def __init__(self, score: float) -> None:
            self.score = score

    class Network:
        def score(self, images: Any) -> list[Score]:
            return [Score(0.25), Score(float("nan"))]

    measure = Nsfw()
    measure.model = Network()
    first, second = measure(items(1, 2))
    assert first == {"nsfw": 0.25, "nsfw_label": None} and isinstance(second, ValueError)
