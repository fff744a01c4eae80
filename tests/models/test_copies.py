"""Copy detection on edits of one photo and on different photos."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idtool.models.copies import Sscd
from tests.models.test_faces import read

pytestmark = pytest.mark.offline_weights
THRESHOLD = 0.75


@pytest.fixture(scope="module")
def model() -> Sscd:
    return Sscd()


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data))


def test_edits_of_one_photo_are_copies(model: Sscd, fixtures: Path) -> None:
    image = read(fixtures / "identities/obama/00_face_recognition.jpg")
    high, wide = image.shape[:2]
    edits = [
        jpeg(image, 30),
        image[:, ::-1],
        image[::2, ::2],
        image[high // 10 : -high // 10, wide // 10 : -wide // 10],
        np.clip(image.astype(np.int16) + 40, 0, 255).astype(np.uint8),
    ]
    found = model.embed([image, *edits])
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (found[1:] @ found[0]).min() > THRESHOLD


def test_the_same_shot_in_four_sizes(model: Sscd, fixtures: Path) -> None:
    found = model.embed([read(path) for path in sorted((fixtures / "hard").glob("same_image_*p.jpg"))])
    assert len(found) == 4
    assert (found @ found.T).min() > 0.95


def test_a_crop_points_to_its_source(model: Sscd, fixtures: Path) -> None:
    crop = read(fixtures / "hard/crop_of_lecun.jpg")
    photos = [read(path) for path in sorted((fixtures / "identities/lecun").iterdir())]
    assert (model.embed(photos) @ model.embed([crop])[0]).max() > THRESHOLD


def test_other_photos_of_a_person_and_other_people_are_not(model: Sscd, fixtures: Path) -> None:
    obama = model.embed([read(path) for path in sorted((fixtures / "identities/obama").iterdir())])
    biden = model.embed([read(path) for path in sorted((fixtures / "identities/biden").iterdir())])
    assert (obama @ obama.T)[np.triu_indices(len(obama), 1)].max() < THRESHOLD
    assert (obama @ biden.T).max() < THRESHOLD


def test_a_descriptor_does_not_depend_on_its_neighbours(model: Sscd) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 90, 130, 3), dtype=np.uint8)
    black = np.zeros((40, 40, 3), np.uint8)
    assert np.array_equal(model.embed([noise[0], black, noise[1]])[0], model.embed([noise[0]])[0])
    assert np.isfinite(model.embed([black])).all()
    assert model.embed([]).shape == (0, 512)
    with pytest.raises(ValueError, match="HxWx3"):
        model.embed([np.zeros((5, 5), np.uint8)])
