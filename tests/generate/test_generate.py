"""Generation through the pipeline: real pictures in, images with their records out, and every fault on its own row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner

from idtool.cli import app
from idtool.engine.operator import Rejected
from idtool.errors import MissingError, QualityError, RunFailed, UsageError
from idtool.generate import record
from idtool.generate.method import Made, Method, MethodSettings, Request
from idtool.generate.registry import METHODS
from idtool.generate.requests import Wish
from idtool.media.images import decode, encode
from idtool.run import Run
from tests.generate.made import configuration, run, table

pytestmark = pytest.mark.offline_weights


@pytest.fixture
def obama(fixtures: Path) -> str:
    return str(fixtures / "identities" / "obama" / "00_face_recognition.jpg")


@pytest.fixture
def biden(fixtures: Path) -> str:
    return str(fixtures / "identities" / "biden" / "00_face_recognition.jpg")


class DriftSettings(MethodSettings):
    strength: float = 1.0
    dtype: str = "float32"


class Drift(Method):
    """Noise of the request's seed over its reference; fails where the prompt says so."""

    summary = "for tests"
    needs_face = False
    multiple = 8
    people = (0, 2)
    fixed = ("dtype",)
    Settings: ClassVar[type[MethodSettings]] = DriftSettings
    calls: ClassVar[list[int]] = []

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        self.calls.append(len(requests))
        if any("explode" in request.prompt for request in requests):
            raise RuntimeError("boom")
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Made | Exception:
        if "refuse" in request.prompt:
            return Rejected("refused", "by the rules", value=1.0, threshold="0")
        if "blank" in request.prompt:
            return Made(np.zeros((request.height, request.width, 3), np.uint8))
        draw = np.random.default_rng(request.seed)
        noise = draw.integers(0, 256, (request.height, request.width, 3), dtype=np.uint8)
        return Made(noise, {"strength": getattr(request.settings, "strength", None)})


@pytest.fixture
def drift(tmp_path: Path) -> Path:
    """A pipelines.yaml with the method `drift`."""
    from idtool.config import packaged_text

    if "drift" not in METHODS:
        METHODS.register("drift", Drift)
    Drift.calls.clear()
    text = packaged_text().replace(
        "\nmethods:\n", "\nmethods:\n\n  drift: {kind: drift, settings: {width: 64, height: 64}}\n"
    )
    path = tmp_path / "pipelines.yaml"
    path.write_text(text, "utf-8")
    return path


def test_copy_and_other_identity(obama: str, biden: str, tmp_path: Path) -> None:
    wishes = [Wish("a man", (obama,), ("obama",)), Wish("another man", (biden,), ("biden",))]
    run("copy", wishes, tmp_path / "copy")
    run("other-identity", wishes, tmp_path / "other")
    pictures = {}
    for name in ("copy", "other"):
        store = Run(tmp_path / name).store_root
        pictures[name] = [
            decode((store / row["media"].removeprefix("store:")).read_bytes()) for row in table(tmp_path / name)
        ]
    assert np.array_equal(pictures["copy"][0], pictures["other"][1])
    assert np.array_equal(pictures["copy"][1], pictures["other"][0])
    assert pictures["copy"][0].shape == (512, 512, 3)
    alone = pytest.raises(QualityError, match=r"request\.other")
    with alone:
        run("other-identity", wishes[:1], tmp_path / "alone")


def test_an_image_tells_its_story(obama: str, drift: Path, tmp_path: Path) -> None:
    wish = Wish("a man", (obama,), seed=3, n=2, negative_prompt="fog", settings={"strength": 0.5})
    out = run("drift", [wish], tmp_path / "run", config=drift)
    first, second = table(tmp_path / "run")
    assert (first["seed"], second["seed"]) == (3, 4)
    file = Run(tmp_path / "run").store_root / first["media"].removeprefix("store:")
    told = record.read(file.read_bytes())
    assert told is not None
    assert told["request"] == first["id"]
    assert (told["prompt"], told["negative_prompt"], told["seed"]) == ("a man", "fog", 3)
    assert told["settings"]["strength"] == 0.5 == told["facts"]["strength"]
    assert not {"seconds", "batch", "peak_memory", "device"} & set(told), (
        "what differs from run to run is not in the file"
    )
    assert 0 <= first["nsfw"] <= 1
    assert first["seconds"] > 0
    assert (first["batch"], first["device"]) in ((1, "cpu"), (2, "cpu"))
    assert str(file) in out["images"]
    assert "a man" in Path(out["gallery"]).read_text("utf-8")
    # The same again, elsewhere, gives the same bytes.
    run("drift", [wish], tmp_path / "again", config=drift, workers=1)
    assert [row["media"] for row in table(tmp_path / "again")] == [first["media"], second["media"]]


def test_a_fault_stays_on_its_row(obama: str, drift: Path, tmp_path: Path) -> None:
    prompts = ["fine", "explode", "refuse", "blank", "good"]
    wishes = [Wish(prompt, (obama,)) for prompt in prompts]
    wishes += [Wish("odd size", (obama,), width=60), Wish("", (obama,)), Wish("gone", ("/no/such/picture.png",))]
    wishes += [
        Wish("unknown", (obama,), settings={"strenght": 1}),
        Wish("fixed", (obama,), settings={"dtype": "float16"}),
    ]
    wishes += [Wish("many", (obama, obama, obama))]
    run("drift", wishes, tmp_path / "run", config=drift, max_error_rate=1.0)
    outcome = {row["prompt"]: (row["status"], row["reason"], row["message"]) for row in table(tmp_path / "run")}
    assert outcome["fine"][0] == outcome["good"][0] == "kept"
    assert outcome["explode"] == ("error", "RuntimeError", "boom")
    assert outcome["refuse"][:2] == ("rejected", "refused")
    assert outcome["blank"][:2] == ("error", "ValueError")
    assert "one colour" in outcome["blank"][2]
    assert outcome["odd size"][:2] == ("rejected", "request.width")
    assert outcome[""][:2] == ("rejected", "request.prompt")
    assert outcome["gone"][:2] == ("rejected", "missing_file")
    assert outcome["unknown"][0] == "rejected"
    assert "strenght" in outcome["unknown"][2]
    assert "the method's, not the request's" in outcome["fixed"][2]
    assert outcome["many"][:2] == ("rejected", "request.people")


def test_an_error_budget_holds_and_only_errors_goes_on(obama: str, drift: Path, tmp_path: Path) -> None:
    wishes = [Wish("explode", (obama,), seed=k) for k in range(12)] + [Wish("fine", (obama,))]
    with pytest.raises(RunFailed, match="boom"):
        run("drift", wishes, tmp_path / "run", config=drift, run={"shard": 4})
    Drift.generate, kept = lambda self, requests: [self._one(request) for request in requests], Drift.generate  # type: ignore[method-assign]
    try:
        out = run("drift", wishes, tmp_path / "run", config=drift, run={"shard": 4}, only="errors")
    finally:
        Drift.generate = kept  # type: ignore[method-assign]
    assert out["steps"][0]["kept"] == 13


def test_references_without_one_clear_face(fixtures: Path, obama: str, tmp_path: Path) -> None:
    tiny = tmp_path / "tiny.png"
    image = decode(Path(obama).read_bytes())
    import cv2

    tiny.write_bytes(encode(cv2.resize(image, (40, 40), interpolation=cv2.INTER_AREA), "png"))
    groups = str(fixtures / "groups" / "friends_six.jpg")
    wishes = [Wish("dog", (str(fixtures / "hard" / "dog.jpg"),)), Wish("group", (groups,)), Wish("tiny", (str(tiny),))]
    settings = {"candidates": 1, "rounds": 0}
    with pytest.raises(QualityError):
        run("portrait-search", wishes, tmp_path / "run", settings=settings)
    reasons = {row["prompt"]: row["reason"] for row in table(tmp_path / "run")}
    assert reasons == {
        "dog": "reference.no_face",
        "group": "reference.several_faces",
        "tiny": reasons["tiny"],
    }
    assert reasons["tiny"] in ("reference.small_face", "reference.no_face")
    run("portrait-search", wishes[1:2], tmp_path / "largest", settings=settings, run={"several": "largest"})
    assert table(tmp_path / "largest")[0]["status"] == "kept"


def test_search_finds_a_face_that_is_more_alike_than_a_stranger(obama: str, tmp_path: Path) -> None:
    run("portrait-search", [Wish("", (obama,), seed=1)], tmp_path / "run", settings={"candidates": 4})
    [row] = table(tmp_path / "run")
    cosine = json.loads(row["facts"])["searched_cosine"]
    assert 0.05 < cosine < 0.6, "more than strangers have on average (.03), less than the same person"
    assert json.loads(row["preprocessing"])["identity"]["model"] == "arcface-mbf"


def test_what_cannot_run_is_refused_before_anything_runs(obama: str, drift: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="needs role t2i"):
        run("text-only", [Wish("a man", (obama,))], tmp_path / "a")
    with pytest.raises(UsageError, match="Did you mean 'copy'"):
        run("copi", [Wish("a man", (obama,))], tmp_path / "b")
    with pytest.raises(UsageError, match=r"takes 1 reference\(s\); the requests have 2"):
        run("portrait-search", [Wish("two", (obama, obama))], tmp_path / "c")
    with pytest.raises(UsageError, match=r"methods\.drift\.settings: unknown key 'strenght'"):
        run("drift", [Wish("a man", (obama,))], tmp_path / "d", config=drift, settings={"strenght": 1})
    with pytest.raises(MissingError, match="cuda"):
        run("copy", [Wish("a man", (obama,))], tmp_path / "e", device="cuda")
    assert not any((tmp_path / name).exists() for name in "abcde")


def test_command_line(obama: str, biden: str, tmp_path: Path) -> None:
    cli = CliRunner()
    options = ["--profile", "offline", "-o", str(tmp_path / "run"), "--json", "-q"]
    made = cli.invoke(app, ["generate", "-m", "copy", "--ref", obama, "--prompt", "a man", "-n", "2", *options])
    assert made.exit_code == 0, made.output
    result: dict[str, Any] = json.loads(made.stdout)
    assert result["steps"][0]["kept"] == 2
    assert Path(result["images"][0]).is_file()
    two = cli.invoke(
        app,
        [
            *("generate", "-m", "copy", "--ref", obama, "--ref", biden, "--prompt", "two men", "--width", "128"),
            *("--box", "0,0,0.5,1", "--box", "0.5,0,1,1", "--profile", "offline", "-o", str(tmp_path / "two"), "-q"),
        ],
    )
    assert two.exit_code == 0, two.output
    assert table(tmp_path / "two")[0]["image_width"] == 128
    for wrong, code, says in [
        (["generate", "-m", "copy"], 2, "nothing to make"),
        (["generate", "-m", "copy", "--ref", "/no/such.jpg"], 2, "does not exist"),
        (["generate", "-m", "copy", "--ref", obama, "--box", "0,0,9,1"], 2, "shares of the frame"),
        (["generate", "-m", "copy", "--ref", obama, "--requests", "x.csv"], 2, "both given"),
    ]:
        refused = cli.invoke(app, wrong)
        assert refused.exit_code == code
        assert says in refused.output
    listed = cli.invoke(app, ["methods", "list", "--profile", "offline", "--json"])
    states = {row["method"]: row["state"] for row in json.loads(listed.stdout)}
    assert (states["copy"], states["text-only"]) == ("ready", "cannot")
    shown = cli.invoke(app, ["methods", "show", "portrait-search", "--profile", "offline", "--json"])
    assert json.loads(shown.stdout)["settings"]["candidates"] == 6


def test_ray_and_local_make_the_same_table(obama: str, tmp_path: Path) -> None:
    wishes = [Wish("a man", (obama,), seed=0, n=3)]
    run("copy", wishes, tmp_path / "local")
    run("copy", wishes, tmp_path / "ray", engine="ray", workers=1)
    keys = ("id", "media", "status", "method_settings", "models", "facts")
    local, ray = ([{key: row[key] for key in keys} for row in table(tmp_path / name)] for name in ("local", "ray"))
    assert local == ray


def test_every_method_of_the_packaged_file_resolves() -> None:
    from idtool.generate import methods

    file = configuration()
    for name in file.config.methods:
        cls, spec = methods.resolve(file, name)
        assert issubclass(cls, Method)
        assert spec.name == name
        json.dumps(cls(spec).fingerprint())
