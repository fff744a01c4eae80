"""The audit finds what was planted: a person in other pictures, copies of references; and nobody else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from idtool.curate.dedup import Perceptual
from idtool.curate.pair import Copy
from idtool.engine.step import Binding, Env
from idtool.errors import MissingError, UsageError
from idtool.evaluate.audit import SCHEMA, Limits, audit
from idtool.evaluate.audit_search import make_search
from idtool.evaluate.identities import Identity, read_identities
from idtool.evaluate.samples import key_of
from idtool.evaluate.scoring import Seen
from tests.curate import fake_run
from tests.evaluate.offline import Silent, env, runtime


def test_limits_are_those_of_curation():
    assert Limits().hash_bits == Perceptual().max_distance
    assert Limits().copy == Copy().copy_similarity.max


@pytest.fixture(scope="module")
def folders(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A training set and a benchmark. Obama is in both, in different pictures; of LeCun and Hinton the training set has
    copies under other names; Scarlett is in the benchmark only."""
    people = fixtures / "identities"
    train, bench = (tmp_path_factory.mktemp(name) for name in ("train", "bench"))
    for target, sources in (
        (train, ["obama/00_face_recognition.jpg", "cb_id0/00_celebbasis.jpg", "cb_id1/00_celebbasis.jpg"]),
        (bench, ["obama/01_face_recognition.jpg"]),
    ):
        for source in sources:
            (target / source).parent.mkdir(exist_ok=True)
            shutil.copyfile(people / source, target / source)
    for label in ("lecun", "hinton", "scarlett"):
        (bench / label).mkdir()
        shutil.copyfile(min((people / label).iterdir()), bench / label / "ref.jpg")
    (train / "scraped").mkdir()
    with Image.open(bench / "lecun" / "ref.jpg") as image:
        small = image.convert("RGB").resize((image.width // 2, image.height // 2))
        small.save(train / "scraped" / "a.jpg", quality=60)
    with Image.open(bench / "hinton" / "ref.jpg") as image:
        ImageOps.mirror(image.convert("RGB")).save(train / "scraped" / "b.png")
    shutil.copyfile(fixtures / "hard" / "dog.jpg", train / "scraped" / "dog.jpg")
    (train / "scraped" / "broken.jpg").write_bytes(b"no picture")
    return train, bench


@pytest.mark.offline_weights
@pytest.mark.fixtures
def test_a_planted_person_and_planted_copies_are_found_and_nobody_else(folders, tmp_path):
    train, bench = folders
    people = read_identities(str(bench))
    surroundings = env("faces", "identity", "copy")
    found = audit(str(train), people, tmp_path, runtime(surroundings, max_error_rate=1.0))
    assert found.leaked == {
        "identity": {"obama", "lecun", "hinton"},
        "perceptual": {"lecun", "hinton"},
        "copy": {"lecun", "hinton"},
    }
    assert dict(found.found) == {"identity": 3, "perceptual": 2, "copy": 2}
    assert (found.pictures, found.unreadable, found.without_face) == (7, 1, 1)
    assert (found.people, found.references) == (4, 4)
    assert not found.clean
    table = pq.read_table(found.path)
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    assert len(rows) == 7
    for row in rows:
        assert (row["value"] <= row["threshold"]) == (row["kind"] == "perceptual")
    [obama] = [row for row in rows if row["benchmark_identity"] == "obama"]
    assert Path(obama["picture"]).parent.name == obama["picture_identity"] == "obama"
    assert obama["threshold"] == pytest.approx(0.38)
    told = found.as_dict()
    assert told["leaked"]["identity"] == ["hinton", "lecun", "obama"]
    assert [row["kind"] for row in told["worst"]] == ["identity"] * 3 + ["perceptual"] * 2 + ["copy"] * 2
    assert told["worst"][0]["value"] >= told["worst"][1]["value"] >= told["worst"][2]["value"]

    progress = Silent()
    again = audit(
        str(train), people, tmp_path, runtime(surroundings, progress, max_error_rate=1.0), Limits(same_person=0.99)
    )
    assert again.leaked.get("identity", set()) <= {"lecun", "hinton"}
    # Only the picture that could not be read was tried again.
    assert all(note.endswith("of 1") for note in progress.notes), progress.notes


@pytest.mark.offline_weights
@pytest.mark.fixtures
def test_without_a_copy_network_the_audit_says_that_it_looked_for_less(folders, tmp_path):
    train, bench = folders
    [one] = [one for one in read_identities(str(bench)) if one.label == "scarlett"]
    found = audit(str(train), [one], tmp_path, runtime(env("faces", "identity"), max_error_rate=1.0))
    assert not found.found
    assert found.skipped == {"copy": "needs role copy; profile offline binds none"}
    assert not found.clean


@pytest.mark.offline_weights
def test_a_curated_run_is_audited_by_its_pictures_and_people(tmp_path):
    run = fake_run.make_run(tmp_path / "made")
    people = read_identities(str(run))
    copied = Identity("planted", (people[0].references[0],))
    found = audit(str(run), [copied], tmp_path / "audit", runtime(env("faces", "identity")))
    assert found.pictures == sum(len(one.references) for one in people)
    assert "planted" in found.leaked["perceptual"]
    rows = pq.read_table(found.path).to_pylist()
    exact = [row for row in rows if row["picture"] == people[0].references[0]]
    assert [(row["value"], row["picture_identity"]) for row in exact if row["kind"] == "perceptual"] == [
        (0.0, people[0].label)
    ]


def test_what_cannot_be_audited_is_refused(tmp_path):
    nothing = Env("empty", {})
    with pytest.raises(MissingError, match="People cannot be told apart: needs role identity"):
        audit(str(tmp_path), [], tmp_path, runtime(nothing))
    unknown = Env("odd", {"faces": (Binding("faces", "scrfd-500m"),), "identity": (Binding("identity", "edgeface-s"),)})
    with pytest.raises(UsageError, match="has no calibrated threshold"):
        audit(str(tmp_path), [], tmp_path, runtime(unknown))


def test_the_search_finds_what_comparing_everything_with_everything_finds():
    rng = np.random.default_rng(0)

    def units(count: int) -> np.ndarray:
        rows = rng.normal(size=(count, 16)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    people = [Identity(f"p{k}", tuple(f"/{k}/{j}" for j in range(1 + k % 3))) for k in range(7)]
    uris = [uri for one in people for uri in one.references]
    references = dict(zip(uris, units(len(uris)), strict=True))
    blind = people[2].references[0]
    hashes = {uri: rng.integers(0, 2**63, 2, np.uint64) for uri in uris}
    seen = Seen(
        {},
        {
            key_of(uri): {
                "people_embeddings": [] if uri == blind else [references[uri].tolist(), units(1)[0].tolist()],
                "phash": f"{hashes[uri][0]:016x}",
                "phash_mirror": f"{hashes[uri][1]:016x}",
            }
            for uri in uris
        },
        {},
    )
    counts = [0, 1, 3, None, 2] * 20
    faces = [None if n is None else units(n) for n in counts]
    near = [int(hashes[uris[k % len(uris)]][k % 2]) ^ (1 << (k % 64)) ^ (k % 3 == 0) << 7 for k in range(100)]
    batch = pa.table(
        {
            "people_embeddings": pa.array(
                [None if one is None else one.tolist() for one in faces], pa.list_(pa.list_(pa.float32()))
            ),
            "phash": pa.array([None if k % 10 == 0 else f"{near[k]:016x}" for k in range(100)]),
        }
    )
    search = make_search("identity", people, seen, 0.5)
    assert search is not None
    expected = {}
    for row, one in enumerate(faces):
        for person in people:
            known = [uri for uri in person.references if uri != blind]
            if one is not None and len(one) and known:
                cosines = {uri: float((one @ references[uri]).max()) for uri in known}
                best = max(cosines, key=cosines.__getitem__)
                if cosines[best] >= 0.5:
                    expected[row, person.label] = (pytest.approx(cosines[best], abs=1e-6), best)
    hits = {(row, search.labels[k]): (value, search.uris[ref]) for (row, k), (value, ref) in search.hits(batch).items()}
    assert len(expected) > 20
    assert hits == expected
    close = make_search("perceptual", people, seen, 1.0)
    assert close is not None
    bits = close.hits(batch)
    assert {row for row, _ in bits} == {k for k in range(100) if k % 10 and k % 3}
    assert {value for value, _ in bits.values()} == {-1.0}
    assert make_search("identity", [Identity("x", (blind,))], seen, 0.5) is None
