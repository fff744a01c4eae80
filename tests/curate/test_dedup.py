from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idtool.curate.dedup import Dedup, DedupSettings, Perceptual, near_copies
from idtool.curate.hamming import close_pairs
from idtool.engine.table import KeptRows
from idtool.evaluate.measures.pixels import measure
from tests.curate.tables import OFFLINE, run, stored

HASHES = st.integers(0, 2**64 - 1)


def table_of(hashes: list[int], mirrors: list[int] | None = None, **columns: Any) -> pa.Table:
    count = len(hashes)
    names = [f"{k:03d}" for k in range(count)]
    basic = {
        "id": names,
        "uri": [f"/photos/{name}.jpg" for name in names],
        "name": [f"{name}.jpg" for name in names],
        "identity_label": pa.nulls(count, pa.string()),
        "origin": ["photo"] * count,
        "short_side": pa.array([1000] * count, pa.int32()),
        "sharpness": pa.array([100.0] * count, pa.float32()),
        "phash": [f"{value:016x}" for value in hashes],
        "phash_mirror": [f"{value:016x}" for value in (mirrors or [~h & (2**64 - 1) for h in hashes])],
    }
    return pa.table({**basic, **columns})


def brute(hashes: list[int], limit: int) -> set[tuple[int, int, int]]:
    return {
        (i, j, (hashes[i] ^ hashes[j]).bit_count())
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (hashes[i] ^ hashes[j]).bit_count() <= limit
    }


@st.composite
def clustered(draw: st.DrawFn) -> list[int]:
    """Hashes with near neighbours on both sides of any bound, which independent draws would hardly ever give."""
    centres = draw(st.lists(HASHES, min_size=1, max_size=4))
    out = []
    for _ in range(draw(st.integers(0, 30))):
        value = draw(st.sampled_from(centres))
        for bit in draw(st.lists(st.integers(0, 63), max_size=9)):
            value ^= 1 << bit
        out.append(value)
    return out


@given(clustered(), st.integers(0, 15))
@settings(max_examples=300, deadline=None)
def test_close_pairs_are_those_of_brute_force(hashes: list[int], limit: int) -> None:
    i, j, distance = close_pairs(np.array(hashes, np.uint64), limit)
    found = list(zip(i.tolist(), j.tolist(), distance.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == brute(hashes, limit)


def test_close_pairs_of_many_hashes_take_seconds() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 200_000, dtype=np.uint64)
    hashes[1000] = hashes[199_000] ^ np.uint64(1 << 63 | 1 << 20 | 1)
    start = time.process_time()
    i, j, distance = close_pairs(hashes, 3)
    assert time.process_time() - start < 20
    assert (1000, 199_000, 3) in set(zip(i.tolist(), j.tolist(), distance.tolist(), strict=True))


@given(clustered(), clustered(), st.integers(0, 6))
@settings(max_examples=150, deadline=None)
def test_each_reject_is_near_a_kept_row_and_no_two_kept_rows_are_near(
    tmp_path_factory: pytest.TempPathFactory, hashes: list[int], mirrors: list[int], limit: int
) -> None:
    count = min(len(hashes), len(mirrors))
    hashes, mirrors = hashes[:count], mirrors[:count]
    folder = tmp_path_factory.mktemp("t")
    copies = near_copies(KeptRows(stored(folder / "t", table_of(hashes, mirrors)).path), Perceptual(max_distance=limit))

    def distance(i: int, j: int) -> int:
        pairs = [(hashes[i], hashes[j]), (hashes[i], mirrors[j]), (mirrors[i], hashes[j])]
        return min((a ^ b).bit_count() for a, b in pairs)

    kept = [k for k in range(count) if f"{k:03d}" not in copies]
    for key, copy in copies.items():
        assert int(copy.of) in kept
        assert distance(int(key), int(copy.of)) == copy.distance <= limit
        assert copy.of < key
    assert all(distance(i, j) > limit for i in kept for j in kept if i < j)


def dedup(**settings: Any) -> Dedup:
    return Dedup(DedupSettings.model_validate(settings), OFFLINE)


def test_the_largest_then_the_sharpest_stays_and_is_named(tmp_path: Path) -> None:
    rows = table_of(
        [0xF0F0, 0xF0F1, 0xF0F3, 0xFFFF0000FFFF],
        short_side=pa.array([500, 900, 900, 400], pa.int32()),
        sharpness=pa.array([900, 10, 20, 1], pa.float32()),
    )
    out = run(dedup(perceptual={"max_distance": 3}), stored(tmp_path / "t", rows), tmp_path)
    assert {key: row["reason"] for key, row in out.items()} == {
        "000": "duplicate.perceptual",
        "001": "duplicate.perceptual",
        "002": None,
        "003": None,
    }
    assert (out["000"]["value"], out["000"]["threshold"]) == (2.0, "> 3")
    assert out["000"]["message"] == "near-copy of 002.jpg (id 002), 2 of 64 hash bits differ"


def test_a_chain_of_small_steps_does_not_swallow_what_is_unlike(tmp_path: Path) -> None:
    """a - b - c - d, each 2 bits from the next: a keeps b away, but c is 4 bits from a, so it stands for d."""
    rows = table_of([0b0, 0b11, 0b1111, 0b111111])
    out = run(dedup(perceptual={"max_distance": 2}), stored(tmp_path / "t", rows), tmp_path)
    assert [row["status"] for row in out.values()] == ["kept", "rejected", "kept", "rejected"]
    assert "of 002.jpg" in out["003"]["message"]


def test_only_the_given_origins_are_compared_and_rows_without_a_hash_stay(tmp_path: Path) -> None:
    rows = table_of(
        [1, 1, 1, 1],
        origin=["photo", "frame", "photo", "photo"],
        phash=["0" * 16, "0" * 16, None, "0" * 16],
    )
    out = run(dedup(perceptual={"max_distance": 3, "origins": ["photo"]}), stored(tmp_path / "t", rows), tmp_path)
    assert [row["status"] for row in out.values()] == ["kept", "kept", "kept", "rejected"]


def test_a_mirror_image_is_a_copy_unless_told_otherwise(tmp_path: Path) -> None:
    rows = table_of([0xAAAA, 0x5555000011110000], mirrors=[0x5555000011110001, 0xAAAA])
    table = stored(tmp_path / "t", rows)
    out = run(dedup(perceptual={"max_distance": 1}), table, tmp_path)
    assert [row["status"] for row in out.values()] == ["kept", "rejected"]
    assert out["001"]["message"].startswith("mirror image of 000.jpg")
    out = run(dedup(perceptual={"max_distance": 1, "mirrored": False}), table, tmp_path)
    assert [row["status"] for row in out.values()] == ["kept", "kept"]


def test_null_switches_the_search_off(tmp_path: Path) -> None:
    out = run(dedup(perceptual=None), stored(tmp_path / "t", table_of([1, 1])), tmp_path)
    assert [row["status"] for row in out.values()] == ["kept", "kept"]
    assert "phash" not in dedup(perceptual=None).reads({})


def test_a_hundred_thousand_copies_of_one_picture_are_quick(tmp_path: Path) -> None:
    count = 100_000
    names = [f"{k:06d}" for k in range(count)]
    rows = table_of([7] * count, id=names, uri=names, name=names)
    start = time.process_time()
    copies = near_copies(KeptRows(stored(tmp_path / "t", rows, batch=50_000).path), Perceptual())
    assert len(copies) == count - 1
    assert {copy.of for copy in copies.values()} == {"000000"}
    assert time.process_time() - start < 15


def test_equal_ids_are_exact_copies_and_one_stays(tmp_path: Path) -> None:
    rows = table_of([5, 5, 5], id=["x", "x", "y"], uri=["/b", "/a", "/c"], identity_label=["ann", "bob", None])
    step = dedup()
    from idtool.engine.step import TableContext
    from tests.curate.tables import joined

    table = KeptRows(stored(tmp_path / "t", rows, batch=1).path)
    out = joined(step.run(table, TableContext(run_dir="", step_dir=tmp_path)))
    assert [(row["uri"], row["reason"]) for row in out] == [
        ("/b", "duplicate.exact"),
        ("/a", None),
        ("/c", "duplicate.perceptual"),
    ]
    assert out[0]["message"] == "same bytes as /a, which is labelled 'bob' while this is labelled 'ann'"


def test_real_photos_resized_and_mirrored_are_found(fixtures: Path, tmp_path: Path) -> None:
    """One photo in four sizes, one retouched and mirrored, and photos of the same people that are no copies."""
    import cv2

    hard, people = fixtures / "hard", fixtures / "identities"
    paths = [*sorted(hard.glob("same_image_*p.jpg")), *sorted((people / "cb_id7").glob("0[0129]*"))]
    paths += sorted((people / "scarlett").iterdir()) + sorted((people / "cb_id0").iterdir())
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    values = [measure(image) for image in images]
    rows = pa.table(
        {
            "id": [f"{path.parent.name}/{path.stem}" for path in paths],
            "uri": [str(path) for path in paths],
            "name": [path.name for path in paths],
            "origin": ["photo"] * len(paths),
            "short_side": pa.array([min(image.shape[:2]) for image in images], pa.int32()),
            "sharpness": pa.array([value["sharpness"] for value in values], pa.float32()),
            "phash": [value["phash"] for value in values],
            "phash_mirror": [value["phash_mirror"] for value in values],
        }
    )
    out = run(dedup(perceptual={"max_distance": 3}), stored(tmp_path / "t", rows), tmp_path)
    gone = {key: row["message"] for key, row in out.items() if row["status"] != "kept"}
    sizes = {f"hard/same_image_{side}p" for side in (240, 480, 720)}
    assert all("near-copy of same_image_1080p.jpg" in gone[key] for key in sizes)
    astronaut = {key: message for key, message in gone.items() if key.startswith("cb_id7")}
    assert len(astronaut) >= 2 and any(message.startswith("mirror image of") for message in astronaut.values())
    assert set(gone) == sizes | set(astronaut)
