from __future__ import annotations

import io
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from idtool.engine.operator import Context, Rejected
from idtool.engine.step import Binding, Env
from idtool.errors import MissingError, UsageError
from idtool.evaluate.measure import MeasureSettings, MeasureStep, in_order
from idtool.evaluate.measure_rows import MeasureRows
from idtool.evaluate.measures import MEASURES, base
from idtool.evaluate.measures.base import FaceMeasure, Item, Measure, Values, column
from idtool.evaluate.measures.faces import describe
from idtool.models.resources import resources
from tests.curate.tables import OFFLINE

MODELS = {
    "faces": (Binding("faces", "scrfd-500m"),),
    "identity": (Binding("identity", "arcface-mbf"), Binding("identity", "edgeface-s")),
}
FACES = Env("offline", MODELS)


class Mean(Measure):
    """Mean red, by the thread that asked; remembers batch sizes."""

    name = "mean"
    summary = "mean of red"
    writes = pa.schema([column("mean", pa.float32(), "mean of red")])
    sizes: ClassVar[list[int]] = []

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        self.sizes.append(len(items))
        return [{"mean": float(item.image[..., 0].mean())} for item in items]


class Double(Measure):
    name = "double"
    summary = "twice the mean"
    reads = ("mean",)
    writes = pa.schema([column("double", pa.float32(), "twice the mean")])

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        return [{"double": 2 * item.get("mean")} for item in items]


class Fussy(Mean):
    """Fails on bright images when they come in a batch, and alone."""

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        if any(item.image.max() > 200 for item in items):
            raise ValueError("too bright for me")
        return super().__call__(items)


class Picky(Mean):
    """Turns single images away without failing the others."""

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        return [
            Rejected("dark", "nothing to see", value=0.0) if item.image.max() < 20 else value
            for item, value in zip(items, super().__call__(items), strict=True)
        ]


def png(path: Path, level: int, size: tuple[int, int] = (40, 30)) -> Path:
    from PIL import Image

    Image.new("RGB", size, (level, 0, 0)).save(path, "PNG")
    return path


def table(paths: Sequence[Path], **columns: Any) -> pa.Table:
    rows = {
        "id": [path.name for path in paths],
        "media": [str(path) for path in paths],
        "width": pa.array([40] * len(paths), pa.int32()),
        "height": pa.array([30] * len(paths), pa.int32()),
        "input_id": [path.name for path in paths],
    }
    return pa.table({**rows, **columns})


def operate(measures: Sequence[Measure], rows: pa.Table, folder: Path, **options: Any) -> list[dict[str, Any]]:
    operator = MeasureRows(measures, **{"where": {}, "batch": 4, "max_pixels": 10**8, **options})
    operator.setup(Context(run_dir=str(folder)))
    out = operator(rows)
    assert out.column_names[-5:] == ["status", "reason", "value", "threshold", "message"]
    assert out["id"].to_pylist() == rows["id"].to_pylist()
    assert "input_id" in out.column_names
    return list(out.to_pylist())


def test_values_follow_their_rows_over_batches_and_measures_build_on_each_other(tmp_path: Path) -> None:
    rows = table([png(tmp_path / f"{k:02d}.png", 10 * k) for k in range(10)])
    Mean.sizes.clear()
    out = operate([Mean(), Double()], rows, tmp_path)
    assert [row["mean"] for row in out] == [10.0 * k for k in range(10)]
    assert [row["double"] for row in out] == [20.0 * k for k in range(10)]
    assert {row["status"] for row in out} == {"kept"}
    assert Mean.sizes == [4, 4, 2]


def test_a_bad_image_costs_only_its_own_row(tmp_path: Path) -> None:
    good = png(tmp_path / "good.png", 50)
    whole = png(tmp_path / "whole.png", 50, (400, 300)).read_bytes()
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"hello")
    paths = [good, cut, tmp_path / "empty.png", tmp_path / "text.png", tmp_path / "gone.png", good]
    out = operate([Mean()], table(paths), tmp_path)
    found = [(row["status"], row["reason"]) for row in out]
    assert found == [
        ("kept", None),
        ("rejected", "truncated"),
        ("rejected", "empty"),
        ("rejected", "unreadable"),
        ("rejected", "missing_file"),
        ("kept", None),
    ]
    assert [row["mean"] for row in out] == [50.0, None, None, None, None, 50.0]


def test_a_measure_that_fails_on_one_image_keeps_the_others_and_what_was_measured_before(tmp_path: Path) -> None:
    class Later(Fussy):
        name = "later"
        writes = pa.schema([column("later", pa.float32(), "")])

        def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
            return [{"later": value["mean"]} for value in super().__call__(items) if isinstance(value, dict)]

    rows = table([png(tmp_path / f"{k}.png", level) for k, level in enumerate([10, 250, 30])])
    out = operate([Mean(), Later()], rows, tmp_path)
    assert [row["status"] for row in out] == ["kept", "error", "kept"]
    assert (out[1]["reason"], out[1]["message"]) == ("ValueError", "too bright for me")
    assert [row["mean"] for row in out] == [10.0, 250.0, 30.0]
    assert [row["later"] for row in out] == [10.0, None, 30.0]


def test_a_rejected_image_takes_no_part_in_later_measures(tmp_path: Path) -> None:
    rows = table([png(tmp_path / f"{k}.png", level) for k, level in enumerate([10, 50])])
    out = operate([Picky(), Double()], rows, tmp_path)
    assert [(row["status"], row["reason"], row["value"]) for row in out] == [
        ("rejected", "dark", 0.0),
        ("kept", None, None),
    ]
    assert [row["double"] for row in out] == [None, 100.0]


def test_a_missing_model_stops_the_step(tmp_path: Path) -> None:
    class Broken(Mean):
        def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
            raise MissingError("No weights.")

    with pytest.raises(MissingError):
        operate([Broken()], table([png(tmp_path / "a.png", 1)]), tmp_path)


def test_where_leaves_other_rows_alone_without_decoding_them(tmp_path: Path) -> None:
    paths = [png(tmp_path / "a.png", 10), tmp_path / "never-read.png", png(tmp_path / "c.png", 30)]
    rows = table(paths, origin=["photo", "frame", "photo"])
    out = operate([Mean()], rows, tmp_path, where={"origin": "photo"})
    assert [(row["status"], row["mean"]) for row in out] == [("kept", 10.0), ("kept", None), ("kept", 30.0)]
    out = operate([Mean()], rows.slice(0, 1), tmp_path, where={"origin": ("frame", "video")})
    assert out[0]["mean"] is None


def test_images_are_decoded_once_ahead_and_few_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from idtool.media import images

    decode = images.decode
    held: list[int] = []
    alive = 0
    lock = threading.Lock()

    class Tracked(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            if getattr(self, "counted", False):
                with lock:
                    alive -= 1

    def counting(data: bytes, limits: Any) -> Any:
        nonlocal alive
        image = decode(data, limits).view(Tracked)
        image.counted = True  # type: ignore[attr-defined]
        with lock:
            alive += 1
            held.append(alive)
        return image

    monkeypatch.setattr(images, "decode", counting)
    rows = table([png(tmp_path / f"{k:02d}.png", k) for k in range(40)])
    out = operate([Mean()], rows, tmp_path)
    assert [row["mean"] for row in out] == [float(k) for k in range(40)]
    assert len(held) == 40
    assert 4 < max(held) <= 8
    assert alive == 0


def test_large_images_are_held_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import idtool.evaluate.measure_rows as module

    monkeypatch.setattr(module, "PIXEL_BUDGET", 2000)
    Mean.sizes.clear()
    operate([Mean()], table([png(tmp_path / f"{k}.png", k) for k in range(6)]), tmp_path)
    assert Mean.sizes == [1] * 6


def test_one_operator_serves_several_threads(tmp_path: Path) -> None:
    rows = table([png(tmp_path / f"{k:02d}.png", k) for k in range(30)])
    operator = MeasureRows([Mean(), MEASURES.get("pixels")()], {}, 4, 10**8)
    operator.setup(Context(run_dir=str(tmp_path)))
    alone = operator(rows)
    results: list[pa.Table] = []
    threads = [threading.Thread(target=lambda: results.append(operator(rows))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6 and all(result.equals(alone) for result in results)


# -- planning ------------------------------------------------------------------------------------------------------


def step(*measures: str, env: Env = FACES, **settings: Any) -> MeasureStep:
    return MeasureStep(MeasureSettings(measures=measures, **settings), env)


INGESTED = {name: pa.field(name, pa.string()) for name in ("id", "media", "width", "height")}


def test_order_comes_from_what_measures_need() -> None:
    names = [
        cls.name for cls in in_order([MEASURES.get(name) for name in ("identity2", "identity", "pixels", "faces")])
    ]
    assert names.index("faces") < names.index("identity") < names.index("identity2")
    assert names == [
        cls.name for cls in in_order([MEASURES.get(n) for n in ("faces", "pixels", "identity", "identity2")])
    ]


def test_measures_that_need_each_other_are_refused() -> None:
    class A(Mean):
        name, reads = "a", ("b",)
        writes = pa.schema([column("a", pa.int32(), "")])

    class B(Mean):
        name, reads = "b", ("a",)
        writes = pa.schema([column("b", pa.int32(), "")])

    with pytest.raises(UsageError, match="need each other"):
        in_order([A, B])


def test_what_the_profile_cannot_make_is_left_out_with_all_that_hangs_on_it() -> None:
    why = "needs role faces; profile bare binds none"
    bare = step("pixels", "faces", "identity", env=Env("bare", {"identity": MODELS["identity"]}))
    assert bare.left_out() == {"faces": why, "identity": why}
    assert bare.notes() == [f"measure faces is left out: {why}", f"measure identity is left out: {why}"]
    assert bare.provides_none()["embedding"] == why and "sharpness" not in bare.provides_none()
    assert bare.writes(INGESTED).names == list(MEASURES.get("pixels").writes.names)
    assert bare.skip_reason() is None
    assert step("faces", env=OFFLINE).skip_reason() == (
        "measure faces is left out: needs role faces; profile offline binds none"
    )


def test_a_face_measure_is_left_out_where_an_earlier_step_left_out_faces() -> None:
    later = step("identity")
    later.missing = dict.fromkeys(("face_box", "face_kps"), "needs role faces; profile offline binds none")
    assert later.skip_reason() is not None and set(later.provides_none()) == {
        "embedding",
        "embedding_norm",
        "face_thumb",
    }


def test_the_second_judge_needs_a_second_network() -> None:
    one = Env("one", {**MODELS, "identity": MODELS["identity"][:1]})
    assert step("faces", "identity2", env=one).left_out() == {
        "identity2": "needs model 2 for role identity; profile one binds 1"
    }


def test_a_measure_whose_model_this_version_cannot_load_is_left_out_with_the_reason() -> None:
    assert step("pixels", "aesthetic").left_out() == {"aesthetic": "needs role aesthetic; profile offline binds none"}
    strange = Env("own", {"aesthetic": (Binding("aesthetic", "hf:some/predictor"),)})
    why = step("pixels", "aesthetic", env=strange).left_out()["aesthetic"]
    assert why.startswith("role aesthetic is bound to hf:some/predictor, and ")
    assert [binding.role for binding in step("pixels", "aesthetic", env=strange).models()] == []
    known = Env("own", {"aesthetic": (Binding("aesthetic", "hf:some/predictor", options={"format": "laion-v2"}),)})
    assert step("aesthetic", env=known).left_out() == {} and len(step("aesthetic", env=known).models()) == 1


def test_workers_reserve_an_accelerator_where_a_model_runs_on_one() -> None:
    def gpus(*names: str, device: str = "cuda", pinned: str | None = None, asked: float | None = None) -> float:
        binding = Binding("clip", "hf:some/clip", device=pinned)
        env = Env("p", {"clip": (binding,), "nsfw": (Binding("nsfw", "nudenet-320n", device="cpu"),)}, device=device)
        [operator] = step(*names, env=env, gpus=asked).operators()
        return operator.resources.gpus

    assert gpus("clip", "nsfw") == 1 and gpus("clip", device="cpu") == 0 and gpus("clip", device="mps") == 0
    assert (
        gpus("nsfw", "pixels") == 0
        and gpus("clip", pinned="cpu") == 0
        and gpus("clip", device="cpu", pinned="cuda:1") == 1
    )
    assert gpus("clip", asked=0.25) == 0.25 and gpus("clip", asked=0) == 0 and gpus("pixels", asked=2) == 2
    with pytest.raises(ValidationError, match="counted whole"):
        step("clip", gpus=1.5)
    served = Env("p", {}, device="cuda")
    assert resources(served, [Binding("captioner", "api:m"), None]).gpus == 0
    assert step("pixels", gpus=0.5).config() == step("pixels").config()


def test_a_forgotten_measure_is_named() -> None:
    with pytest.raises(UsageError, match=r"'identity' needs column 'face_box', which measure 'faces' writes"):
        step("identity").reads(INGESTED)
    available = {**INGESTED, "face_box": pa.field("face_box", pa.string()), "face_kps": pa.field("k", pa.string())}
    assert "face_kps" in step("identity").reads(available)


def test_an_unknown_measure_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Unknown measure 'pixel'.*Did you mean 'pixels'"):
        step("pixel")
    with pytest.raises(ValidationError, match="listed twice"):
        step("pixels", "pixels")


def test_the_fingerprint_knows_the_model_but_not_its_thresholds() -> None:
    def config(binding: Binding) -> Any:
        env = Env("p", {"faces": (binding,)})
        return [operator.config() for operator in step("faces", env=env).operators()]

    plain = config(Binding("faces", "scrfd-500m"))
    assert plain == config(Binding("faces", "scrfd-500m", thresholds={"x": 1.0}, licence="MIT"))
    assert plain != config(Binding("faces", "scrfd-500m", revision="2"))
    assert plain != config(Binding("faces", "scrfd-500m", options={"threshold": 0.6}))


def test_the_listed_order_of_measures_is_not_in_the_fingerprint() -> None:
    a, b = step("faces", "pixels"), step("pixels", "faces")
    assert (a.config(), [o.config() for o in a.operators()]) == (b.config(), [o.config() for o in b.operators()])


# -- what measures compute -----------------------------------------------------------------------------------------


def test_the_largest_face_is_described_and_its_share_is_of_the_part_inside() -> None:
    class Face:
        def __init__(self, box: list[float]) -> None:
            self.box, self.score, self.kps = (
                np.array(box, np.float32),
                0.9,
                np.arange(10, dtype=np.float32).reshape(5, 2),
            )
            self.area = (box[2] - box[0]) * (box[3] - box[1])

    values = describe([Face([-50, 0, 50, 80]), Face([0, 0, 20, 20])], (100, 200))
    assert values["faces"] == 2
    assert values["face_share"] == pytest.approx(50 * 80 / (100 * 200))
    assert values["face_side"] == 80
    assert values["second_face"] == pytest.approx(400 / 8000)
    assert list(values["face_kps"]) == list(range(10))
    assert describe([], (100, 200)) == {"faces": 0}


def test_images_without_a_face_get_nulls() -> None:
    class Sides(FaceMeasure):
        name, summary = "sides", ""
        writes = pa.schema([column("sides", pa.float32(), "")])

        def of_faces(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
            return [{"sides": float(item.face.box[2])} for item in items]

    image = np.zeros((4, 4, 3), np.uint8)
    none, one = Item({}, image), Item({"face_box": [0, 0, 7, 3], "face_kps": list(range(10))}, image)
    assert Sides()([none, one, none]) == [{}, {"sides": 7.0}, {}]
    assert Sides()([none]) == [{}]


def photo(side: int = 600, seed: int = 0) -> base.Image:
    """Smooth shapes with edges and some texture, like a photo in its spectrum."""
    import cv2

    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (side * 4 // 3, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_sharpness_falls_with_blur_and_hardly_changes_with_size() -> None:
    import cv2

    pixels = MEASURES.get("pixels")()

    def sharpness(image: base.Image) -> float:
        value = pixels([Item({}, image)])[0]
        assert isinstance(value, dict)
        return float(value["sharpness"])

    random = np.random.default_rng(1)
    image = np.clip(photo(1536) + random.normal(0, 12, (1536, 2048, 3)), 0, 255).astype(np.uint8)
    blurred = [sharpness(cv2.GaussianBlur(image, (0, 0), sigma)) for sigma in (1, 3, 6, 12)]
    assert sharpness(image) > blurred[0] > blurred[1] > blurred[2] > blurred[3] > 0
    half = cv2.resize(image, (1024, 768), interpolation=cv2.INTER_AREA)
    assert sharpness(half) == pytest.approx(sharpness(image), rel=0.15)


def test_one_real_photo_in_four_sizes_is_about_as_sharp(fixtures: Path) -> None:
    import cv2

    from idtool.evaluate.measures.pixels import sharpness

    paths = [fixtures / "hard" / f"same_image_{side}p.jpg" for side in (1080, 720, 480)]
    values = [sharpness(np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)) for path in paths]
    assert max(values) < 1.25 * min(values)


def test_exposure_of_known_pictures() -> None:
    pixels = MEASURES.get("pixels")()
    picture = np.zeros((10, 20, 3), np.uint8)
    picture[:, 10:] = 255
    grey = np.full((10, 20, 3), 128, np.uint8)
    half, flat = pixels([Item({}, picture), Item({}, grey)])
    assert isinstance(half, dict) and isinstance(flat, dict)
    assert (half["brightness"], half["contrast"], half["clipped"]) == pytest.approx((0.5, 0.5, 1.0))
    assert (flat["brightness"], flat["contrast"], flat["clipped"]) == pytest.approx((128 / 255, 0, 0), abs=1e-6)
    assert flat["sharpness"] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 3), (33, 32)])
def test_tiny_images_are_measured(size: tuple[int, int]) -> None:
    value = MEASURES.get("pixels")()([Item({}, np.full((*size, 3), 90, np.uint8))])[0]
    assert isinstance(value, dict)
    assert len(value["phash"]) == len(value["phash_mirror"]) == 16


def test_the_hash_survives_compression_and_resizing_and_knows_its_mirror() -> None:
    import cv2
    from PIL import Image

    from idtool.evaluate.measures.pixels import measure

    image = photo()
    buffer = io.BytesIO()
    Image.fromarray(image).resize((300, 225)).save(buffer, "JPEG", quality=60)
    small = np.asarray(Image.open(buffer))
    one, two, other = (int(measure(each)["phash"], 16) for each in (image, small, photo(seed=9)))
    assert (one ^ two).bit_count() <= 3
    assert (one ^ other).bit_count() > 12
    flipped = cv2.flip(image, 1)
    assert measure(flipped)["phash"] == measure(image)["phash_mirror"]
    assert measure(flipped)["phash_mirror"] == measure(image)["phash"]


def test_the_hash_is_the_published_one() -> None:
    """Against a plain DCT-II written out from its definition."""
    import cv2

    from idtool.evaluate.measures.pixels import hashes

    luma = cv2.cvtColor(photo(), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(luma, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float64)
    n = np.arange(32)
    basis = np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / 64)
    basis[0] /= np.sqrt(2)
    low = (basis @ small @ basis.T)[:8, :8]
    bits = "".join("1" if value > np.median(low) else "0" for value in low.reshape(-1))
    assert hashes(luma)[0] == int(bits, 2)


def test_the_operator_costs_little_more_than_decoding_and_measuring(tmp_path: Path) -> None:
    """In processor time, which other work on the machine hardly disturbs; perf/ has the figures."""
    from PIL import Image

    for k in range(24):
        Image.fromarray(photo(768, seed=k)).save(tmp_path / f"{k:02d}.jpg", quality=90)
    paths = sorted(tmp_path.glob("*.jpg"))
    from idtool.evaluate.measures.pixels import measure
    from idtool.media.images import decode

    bare = min(_seconds(lambda: [measure(decode(path.read_bytes())) for path in paths]) for _ in range(2))
    rows = table(paths)
    whole = min(_seconds(lambda: operate([MEASURES.get("pixels")()], rows, tmp_path)) for _ in range(2))
    assert whole < 1.6 * bare


def _seconds(work: Any) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
