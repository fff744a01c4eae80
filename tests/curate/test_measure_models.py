"""The measures of the offline networks on real photos, through the step and its operator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from idtool.engine.operator import Context
from idtool.engine.step import Binding, Env
from idtool.evaluate.measure import MeasureSettings, MeasureStep

pytestmark = [pytest.mark.offline_weights, pytest.mark.fixtures]

ENV = Env(
    "offline",
    {
        "faces": (Binding("faces", "scrfd-500m"),),
        "identity": (Binding("identity", "arcface-mbf"), Binding("identity", "edgeface-s")),
        "landmarks": (Binding("landmarks", "face-landmarker"),),
        "expression": (Binding("expression", "facex"),),
        "quality": (Binding("quality", "qualityface"),),
        "nsfw": (Binding("nsfw", "nudenet-320n"),),
        "copy": (Binding("copy", "sscd"),),
    },
)


def measured(paths: Sequence[Path], *measures: str, batch: int = 16) -> dict[str, dict[str, Any]]:
    step = MeasureStep(MeasureSettings(measures=measures, batch=batch), ENV)
    assert not step.left_out()
    [operator] = step.operators()
    operator.setup(Context(run_dir=""))
    names = [f"{path.parent.name}/{path.stem}" for path in paths]
    sizes = pa.nulls(len(paths), pa.int32())
    table = pa.table({"id": names, "media": [str(path) for path in paths], "width": sizes, "height": sizes})
    out = operator(table)
    assert [field for field in out.schema if field.name in operator.writes.names] == list(operator.writes)
    assert set(out["status"].to_pylist()) == {"kept"}
    return {row["id"]: row for row in out.to_pylist()}


def test_faces_are_counted_and_the_largest_is_embedded(fixtures: Path) -> None:
    people = [fixtures / "identities" / name for name in ("obama/00_face_recognition", "obama/01_face_recognition")]
    people.append(fixtures / "identities" / "biden/00_face_recognition")
    paths = [path.with_suffix(".jpg") for path in people]
    paths += [fixtures / "groups" / name for name in ("friends_six.jpg", "kit_rose.jpg")]
    paths += [fixtures / "hard" / name for name in ("dog.jpg", "no_face_vector.jpg")]
    rows = measured(paths, "faces", "identity", "identity2")
    assert [row["faces"] for row in rows.values()] == [1, 1, 1, 6, 2, 0, 0]
    assert rows["groups/kit_rose"]["second_face"] > 0.5
    for column in ("embedding", "embedding2"):
        vectors = {key: np.array(row[column], np.float32) for key, row in rows.items() if row["faces"]}
        assert all(np.linalg.norm(vector) == pytest.approx(1, abs=1e-5) for vector in vectors.values())
        one, two, other = (vectors[f"{path.parent.name}/{path.stem}"] for path in paths[:3])
        assert one @ two > 0.5 > 0.4 > one @ other
    for key in ("hard/dog", "hard/no_face_vector"):
        empty = {name: rows[key][name] for name in rows[key] if name.startswith(("face_", "embedding"))}
        assert set(empty.values()) == {None} and len(empty) == 9
    face = rows["obama/00_face_recognition"]
    assert len(face["face_thumb"]) == 32 * 32 and len(face["face_kps"]) == 10
    assert 0 < face["face_share"] < 1 and face["face_score"] > 0.6


def test_batches_change_nothing(fixtures: Path) -> None:
    paths = sorted((fixtures / "identities" / "cb_id0").glob("0[0-4]*"))
    assert measured(paths, "faces", "identity", batch=1) == measured(paths, "faces", "identity", batch=16)


def test_pose_follows_the_head(fixtures: Path) -> None:
    hard = fixtures / "hard"
    rows = measured([hard / "yaw_15.jpg", hard / "yaw_45.jpg"], "faces", "landmarks")
    small, large = (abs(row["yaw"]) for row in rows.values())
    assert 8 < small < 22 and 33 < large < 57
    for row in rows.values():
        assert len(row["blendshapes"]) == 52 and 0 <= row["occlusion"] <= 1 and 0 <= row["eyes_open"] <= 1


def test_expression_of_a_smile_and_of_surprise(fixtures: Path) -> None:
    paths = [fixtures / "hard" / "expr_surprise.jpg", fixtures / "hard" / "dog.jpg"]
    alone, rows = measured(paths, "faces", "expression"), measured(paths, "faces", "expression", "landmarks")
    assert alone["hard/expr_surprise"]["expressions"] != rows["hard/expr_surprise"]["expressions"]
    surprise = rows["hard/expr_surprise"]
    assert surprise["expression"] == "surprise"
    assert sum(surprise["expressions"]) == pytest.approx(1, abs=1e-3)
    assert surprise["expression_p"] == pytest.approx(max(surprise["expressions"]))
    assert rows["hard/dog"]["expression"] is None


def test_a_blurred_face_has_less_quality(fixtures: Path, tmp_path: Path) -> None:
    import cv2

    path = fixtures / "identities" / "obama" / "00_face_recognition.jpg"
    image = cv2.imread(str(path))
    assert image is not None
    cv2.imwrite(str(tmp_path / "blurred.png"), cv2.GaussianBlur(image, (0, 0), min(image.shape[:2]) / 100))
    clean, blurred = measured([path, tmp_path / "blurred.png"], "faces", "quality").values()
    assert 0 <= blurred["face_quality"] < clean["face_quality"] - 0.1 <= 1


def test_whole_image_measures_need_no_face(fixtures: Path) -> None:
    hard = fixtures / "hard"
    paths = [hard / "same_image_1080p.jpg", hard / "same_image_480p.jpg", hard / "dog.jpg"]
    rows = measured(paths, "copy", "nsfw")
    one, two, other = (np.array(row["copy_embedding"], np.float32) for row in rows.values())
    assert one @ two > 0.8 and one @ other < 0.5
    assert all(0 <= row["nsfw"] < 0.5 and row["nsfw_label"] for row in rows.values())
