"""The baselines `text-only` and `paste` through the pipeline, on tiny text-to-image checkpoints;
and the pasting itself on real photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from idtool.config import packaged_text
from idtool.engine.operator import Context, Rejected
from idtool.engine.step import Binding
from idtool.errors import MissingError, QualityError
from idtool.generate import baselines, methods
from idtool.generate.baselines import Paste, paste
from idtool.generate.method import Person, Request
from idtool.generate.requests import Wish
from idtool.media.images import decode
from idtool.models import load
from idtool.models.faces import Face
from idtool.run import Run
from tests.generate.made import configuration, run, table
from tests.zoo import Zoo

pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")
pytestmark = pytest.mark.offline_weights

SMALL = {"width": 64, "height": 64, "steps": 2}
CLOSE = 2
"""Levels of 255 by which an image may differ in a batch: float rounding on a CPU."""
Configure = Callable[..., Path]


@pytest.fixture
def configure(tiny: Zoo, tmp_path: Path) -> Configure:
    """A pipelines.yaml whose profile `mine` is `offline` with a tiny text-to-image model."""

    def write(t2i: str, **binding: Any) -> Path:
        if not binding:
            tiny(t2i)
        content = yaml.safe_load(packaged_text())
        profile = content["profiles"]["offline"]
        roles = {role: profile["roles"][role] for role in ("faces", "identity")}
        roles["t2i"] = {"model": f"hf:tiny/{t2i}", "licence": "random weights", **binding}
        content["profiles"]["mine"] = {"summary": "random weights", "device": "cpu", "roles": roles}
        path = tmp_path / f"{t2i}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        return path

    return write


@pytest.fixture
def obama(fixtures: Path) -> str:
    return photo(fixtures, "obama")


@pytest.fixture
def biden(fixtures: Path) -> str:
    return photo(fixtures, "biden")


def photo(fixtures: Path, name: str) -> str:
    return str(fixtures / "identities" / name / "00_face_recognition.jpg")


def made(config: Path, method: str, output: Path, *wishes: Wish, **options: Any) -> list[dict[str, Any]]:
    options = {"settings": SMALL, **options}
    run(method, list(wishes), output, config=config, profile="mine", **options)
    return table(output)


def picture(output: Path, row: dict[str, Any]) -> Any:
    return decode((Run(output).store_root / row["media"].removeprefix("store:")).read_bytes())


def loaded(config: Path, method: str, folder: Path) -> Any:
    file = configuration(config)
    cls, spec = methods.resolve(file, method, SMALL)
    one = cls(spec, file.profile("mine").bindings())
    one.load(Context(str(folder)))
    return one


def request(method: Any, seed: int, *people: Person, prompt: str = "a man in a garden") -> Request:
    return Request(str(seed), prompt, people, seed, 64, 64, method.spec.settings)


# -- text-only -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t2i", ["flux", "sd15", "flux2-klein"])
def test_text_only_never_saw_the_reference(
    configure: Configure, obama: str, biden: str, tmp_path: Path, t2i: str
) -> None:
    config, prompt = configure(t2i), "a man in a garden"
    wishes = [Wish(prompt, references, seed=3) for references in ((obama,), (biden,), (obama, biden), ())]
    rows = made(config, "text-only", tmp_path / "run", *wishes, Wish(prompt, (obama,), seed=4))
    assert [row["status"] for row in rows] == ["kept"] * 5
    assert (rows[0]["image_width"], rows[0]["image_height"], rows[0]["dtype"]) == (64, 64, "float32")
    images = [picture(tmp_path / "run", row).astype(int) for row in rows]
    assert max(np.abs(image - images[0]).max() for image in images[:4]) <= CLOSE
    assert np.abs(images[4] - images[0]).max() > CLOSE, "another seed, another image"
    assert json.loads(rows[0]["method_settings"])["steps"] == 2


@pytest.mark.parametrize("t2i", ["flux", "sd15", "flux2-klein"])
def test_four_at_once_are_four_singles(configure: Configure, tmp_path: Path, t2i: str) -> None:
    method = loaded(configure(t2i), "text-only", tmp_path)
    wanted = [request(method, seed, prompt=f"picture {seed}") for seed in range(4)]
    for together, one in zip(method.generate(wanted), wanted, strict=True):
        [alone] = method.generate([one])
        assert np.abs(together.image.astype(int) - alone.image).max() <= CLOSE


@pytest.mark.parametrize(("t2i", "heeded"), [("flux", False), ("sd15", True), ("flux2-klein", False)])
def test_what_a_model_cannot_do_is_said(
    configure: Configure, obama: str, tmp_path: Path, t2i: str, heeded: bool
) -> None:
    config, long = configure(t2i), "a man in a garden " * 60
    wishes = [Wish(long, (obama,)), Wish("", (obama,)), Wish("odd", (obama,), width=72)]
    wishes += [Wish("fog", (obama,), negative_prompt="fog"), Wish("plain", (obama,), settings={"guidance": 1.0})]
    rows = {row["prompt"]: row for row in made(config, "text-only", tmp_path / "run", *wishes)}
    assert rows[long]["status"] == rows["plain"]["status"] == "kept"
    cut = json.loads(rows[long]["facts"])["prompt_cut"]
    assert set(cut) == {"flux": {"tokenizer", "tokenizer_2"}}.get(t2i, {"tokenizer"}) and min(cut.values()) > 100
    assert json.loads(rows["plain"]["facts"]) == {}
    assert rows[""]["reason"] == "request.prompt"
    assert rows["odd"]["reason"] == "request.width"
    if heeded:
        plain = made(config, "text-only", tmp_path / "plain", Wish("fog", (obama,)))
        assert rows["fog"]["status"] == "kept" and rows["fog"]["media"] != plain[0]["media"]
    else:
        assert rows["fog"]["reason"] == "request.negative_prompt"


def test_a_role_bound_to_something_else(configure: Configure, tiny: Zoo, obama: str, tmp_path: Path) -> None:
    clip = configure("wrong", model=f"local:{tiny('clip')}")
    with pytest.raises(MissingError, match="is no diffusers pipeline"):
        made(clip, "text-only", tmp_path / "a", Wish("a man", (obama,)))
    gone = configure("gone", model="hf:tiny/not-there")
    with pytest.raises(MissingError, match="not-there"):
        made(gone, "text-only", tmp_path / "b", Wish("a man", (obama,)))


# -- paste -----------------------------------------------------------------------------------------------------------


def test_noise_shows_no_face_to_paste_onto(configure: Configure, fixtures: Path, obama: str, tmp_path: Path) -> None:
    config, dog = configure("sd15"), str(fixtures / "hard" / "dog.jpg")
    with pytest.raises(QualityError, match=r"paste\.no_face"):
        made(config, "paste", tmp_path / "run", Wish("a man", (obama,)), Wish("a dog", (dog,)), Wish("", (obama,)))
    reasons = {row["prompt"]: row["reason"] for row in table(tmp_path / "run")}
    assert reasons == {"a man": "paste.no_face", "a dog": "reference.no_face", "": "request.prompt"}


class Photos:
    """In place of the text-to-image model: photos."""

    dtype = "float32"

    def __init__(self, *images: Any) -> None:
        self.images = images

    def __call__(self, requests: Any) -> Any:
        return list(self.images)

    def facts(self, request: Request) -> dict[str, Any]:
        return {"told": request.prompt}


def test_a_face_moves_and_faults_stay_on_their_rows(
    configure: Configure, fixtures: Path, obama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = loaded(configure("sd15"), "paste", tmp_path)
    assert isinstance(method, Paste)
    image = decode(Path(obama).read_bytes())
    person = Person(obama, image, method.detector.detect([image])[0][0])
    canvas = first_photo(fixtures, "lecun")
    method.model = Photos(canvas, np.zeros_like(canvas), canvas)  # type: ignore[assignment]
    real, calls = baselines.paste, []

    def second_fails(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("outside the frame")
        return real(*arguments)

    monkeypatch.setattr(baselines, "paste", second_fails)
    good, empty, failed = method.generate([request(method, seed, person) for seed in range(3)])
    assert not isinstance(good, Exception) and good.facts == {"told": "a man in a garden"}
    assert isinstance(empty, Rejected) and empty.reason == "paste.no_face"
    assert isinstance(failed, ValueError)


def first_photo(fixtures: Path, name: str) -> Any:
    return decode(sorted((fixtures / "identities" / name).iterdir())[0].read_bytes())


PAIRS = [
    ("obama", "biden"),
    ("emma", "scarlett"),
    ("hinton", "lecun"),
    ("cb_id1", "bengio"),
    ("kit_harington", "obama"),
]


def test_a_pasted_face_is_the_references(fixtures: Path) -> None:
    """On 26 canvases of 26 strangers: cosine .01 before and .66 after on average, .50 at least."""
    detector, identity = load(Binding("faces", "scrfd-500m")), load(Binding("identity", "arcface-mbf"))

    def vector(image: Any, face: Face) -> Any:
        raw = identity.embed(identity.crops([image], [face]))[0]
        return raw / np.linalg.norm(raw)

    for who, onto in PAIRS:
        image, canvas = first_photo(fixtures, who), first_photo(fixtures, onto)
        face, target = detector.detect([image])[0][0], detector.detect([canvas])[0][0]
        before = canvas.copy()
        pasted = paste(canvas, target, Person(who, image, face))
        assert pasted.shape == canvas.shape and pasted.dtype == np.uint8
        assert np.array_equal(canvas, before), "the canvas itself is left as it is"
        [found, *_] = detector.detect([pasted])[0]
        wanted = vector(image, face)
        assert wanted @ vector(canvas, target) < 0.3
        assert wanted @ vector(pasted, found) > 0.45, (who, onto)
        # Where the face was, and nothing else.
        left, top, right, bottom = (round(float(side)) for side in target.box)
        rest = np.ones(canvas.shape[:2], bool)
        rest[max(0, top - 2) : bottom + 3, max(0, left - 2) : right + 3] = False
        assert np.abs(pasted[rest].astype(int) - canvas[rest]).max() <= 1
        assert np.abs(found.kps - target.kps).mean() < 0.05 * (right - left)


@pytest.mark.parametrize("side", [0, 1])
def test_onto_itself_a_face_changes_nothing(fixtures: Path, side: int) -> None:
    """Also where the mask has an even side, which a clone may put one pixel off."""
    canvas = first_photo(fixtures, "cb_id3")
    [face, *_] = load(Binding("faces", "scrfd-500m")).detect([canvas])[0]
    wider = Face(face.box + np.array([0, 0, side, side], np.float32), face.score, face.kps)
    pasted = paste(canvas, wider, Person("x", canvas, face))
    assert np.abs(pasted.astype(int) - canvas).max() <= 2


def test_faces_that_do_not_meet(fixtures: Path) -> None:
    canvas = first_photo(fixtures, "cb_id3")
    [face, *_] = load(Binding("faces", "scrfd-500m")).detect([canvas])[0]
    outside = Face(face.box + 5000, face.score, face.kps + 5000)
    with pytest.raises(ValueError, match="outside the frame"):
        paste(canvas, outside, Person("x", canvas, face))
