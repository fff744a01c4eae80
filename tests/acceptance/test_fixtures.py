"""`idtool curate --recipe dmid` on real photos and videos, offline, with the results that a person would expect."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from idtool.run import Run
from tests.acceptance.conftest import PEOPLE, STRANGER, VIDEO
from tests.acceptance.runs import (
    SMALLER,
    again,
    agreement,
    answer,
    curate,
    entry,
    events,
    idtool,
    lost_frames,
    person,
    reasons,
    rows,
    steps_started,
    tables,
)

pytestmark = [pytest.mark.offline_weights, pytest.mark.fixtures]

IDENTITY = ("name", "uri", "parent", "time_ms", "identity", "identity_how", "identity_sim")
PAIR = ("identity", "branch", "similarity", "face_correlation", "a_uri", "b_uri", "a_name", "b_name")
FRAMES_PAIR = (*PAIR, "a_parent", "b_parent", "a_identity_how")


# -- photos -----------------------------------------------------------------------------------------------------------


def test_people_are_found_without_labels(unlabelled: Path) -> None:
    found = rows(unlabelled, "identify", *IDENTITY)
    assert entry(unlabelled, "ingest")["kept"] == 161
    assert len(found) >= 138
    truth = [person(row["uri"]) for row in found]
    purity, precision, recall = agreement(truth, [row["identity"] for row in found])
    assert (purity, precision, recall) == (1.0, 1.0, 1.0)
    # All 26 people but one, whose five photos are 150 px small.
    assert {person(row["uri"]) for row in rows(unlabelled, "ingest", "uri")} - set(truth) == {"sheldon"}
    assert len({row["identity"] for row in found}) == 25
    assert entry(unlabelled, "identify")["statistics"]["purity_estimate"]["share"] >= 0.98


def test_no_pair_shows_two_people(unlabelled: Path) -> None:
    pairs = rows(unlabelled, "pair", *PAIR, kept=True)
    assert len(pairs) >= 240
    assert all(person(pair["a_uri"]) == person(pair["b_uri"]) for pair in pairs)
    assert len({pair["identity"] for pair in pairs}) >= 20
    assert {pair["branch"] for pair in pairs} == {"photos"}
    assert all(0.38 <= pair["similarity"] <= 0.9 for pair in pairs)
    assert max(Counter(pair["identity"] for pair in pairs).values()) == 20, "per_identity"


def test_labels_by_folder_agree_with_the_faces(unlabelled: Path, labelled: Path) -> None:
    found = rows(labelled, "identify", *IDENTITY)
    assert all(row["identity"] == person(row["uri"]) for row in found)
    assert {row["identity_how"] for row in found} == {"folder"}
    statistics = entry(labelled, "identify")["statistics"]
    assert statistics["outliers"] == 0
    assert statistics["mixed_labels"]["count"] == 0
    same = {frozenset((row["a_uri"], row["b_uri"])) for row in rows(labelled, "pair", *PAIR, kept=True)}
    assert same == {frozenset((row["a_uri"], row["b_uri"])) for row in rows(unlabelled, "pair", *PAIR, kept=True)}


def test_a_wrong_label_is_found(small: Path) -> None:
    stranger = STRANGER.replace("/", " ")
    assert reasons(small)[stranger] == "identity.outlier"
    assert [name for name, reason in reasons(small).items() if reason == "identity.outlier"] == [stranger]


def test_only_what_a_setting_touches_runs_again(labelled: Path) -> None:
    times = Counter(steps_started(events(labelled)))
    assert times["measure"] == times["measure.2"] == times["gate.3"] == 1
    assert times["identify"] == times["pair"] == times["export"] == 2


# -- videos -----------------------------------------------------------------------------------------------------------


def _people_of(videos: Path) -> dict[str, set[str]]:
    """Video name -> identities of its frames."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows(videos, "identify", *IDENTITY, kept=True):
        found[row["name"]].add(row["identity"])
    return found


@pytest.mark.parametrize(
    "name",
    [
        "expr_480_d18.mp4",
        "expr_480_d19.mp4",
        "face_then_none_960x540.mov",
        "portrait_1280x720_s18.mp4",
        "selfie_720x1280_d13.mp4",
        "single_face_640x360.mp4",
        "speech_512_aoc.mp4",
    ],
)
def test_a_video_of_one_person_gives_one_identity(videos: Path, name: str) -> None:
    assert len(_people_of(videos)[name]) == 1, lost_frames(videos)[name]


@pytest.mark.parametrize(
    ("name", "gate"),
    [
        ("no_face_960x540.mp4", "one_face.faces"),
        ("crowd_1920x1080.mp4", "one_face.faces"),
        # A performer on a stage and an audience: too far away for the least share of the picture.
        ("multi_shot_640x360.mp4", "face.face_share"),
    ],
)
def test_a_video_of_none_or_many_gives_no_identity(videos: Path, name: str, gate: str) -> None:
    assert not _people_of(videos)[name]
    assert lost_frames(videos)[name].most_common(1)[0][0] == gate
    pairs = rows(videos, "pair", *FRAMES_PAIR)
    assert all(name not in (pair["a_name"], pair["b_name"]) for pair in pairs)


def test_a_second_face_in_the_corner_is_never_taken(videos: Path) -> None:
    name = "generated_512_inset.mp4"
    assert lost_frames(videos)[name]["one_face.faces"] >= 20, "frames where the small face is seen"
    assert len(_people_of(videos)[name]) <= 1


def test_only_the_frames_with_a_face_are_taken(videos: Path) -> None:
    kept = [row for row in rows(videos, "identify", *IDENTITY, kept=True) if row["name"].startswith("face_then_none")]
    assert len(kept) >= 4
    assert max(row["time_ms"] for row in kept) < 3000, "the cut to the clip without a face"


def test_two_people_of_one_video_are_two_identities(videos: Path) -> None:
    people = _people_of(videos)
    (her,), (him,) = people["portrait_1280x720_s18.mp4"], people["selfie_720x1280_d13.mp4"]
    assert people["two_people.mp4"] == {her, him}, "and they are the people of the videos that it was cut from"
    for row in rows(videos, "identify", *IDENTITY, kept=True):
        if row["name"] == "two_people.mp4":
            expected = him if 1500 <= row["time_ms"] < 3000 else her
            assert row["identity"] == expected, f"at {row['time_ms']} ms"


def test_one_person_of_two_videos_is_one_identity(videos: Path) -> None:
    people = _people_of(videos)
    assert people["single_face_640x360.mp4"] == people["face_then_none_960x540.mov"]
    others = [people[name] for name in ("expr_480_d18.mp4", "expr_480_d19.mp4", "speech_512_aoc.mp4") if people[name]]
    assert len(set.union(*others)) == len(others), "the others are different people"


def test_frame_pairs_stay_within_a_video_and_a_person(videos: Path) -> None:
    pairs = rows(videos, "pair", *FRAMES_PAIR, kept=True)
    frames = [pair for pair in pairs if pair["branch"] == "frames"]
    assert len(frames) >= 50
    assert all(pair["a_parent"] == pair["b_parent"] for pair in frames)
    assert all(0.8 <= pair["similarity"] <= 0.95 for pair in frames)
    across = [pair for pair in pairs if pair["branch"] != "frames"]
    assert all(pair["a_parent"] != pair["b_parent"] for pair in across)
    people = _people_of(videos)
    assert all(pair["identity"] in people[pair["a_name"]] & people[pair["b_name"]] for pair in pairs)


def test_cut_out_frames_are_no_pairs_with_their_originals(videos: Path) -> None:
    for pair in rows(videos, "pair", *FRAMES_PAIR, kept=True):
        if pair["branch"] != "frames" and pair["similarity"] >= 0.75:
            assert pair["face_correlation"] <= 0.95, (pair["a_name"], pair["b_name"])


def test_someone_far_away_is_found_once_the_gate_allows(fixtures: Path, videos: Path, tmp_path: Path) -> None:
    inputs = [fixtures / "videos", videos.parent / "two_people.mp4"]
    near = again(videos, tmp_path / "near", inputs, *VIDEO, "gate.3.face.face_share.min=0.005")
    assert len(_people_of(near)["multi_shot_640x360.mp4"]) == 1, "the performer"
    assert not _people_of(near)["crowd_1920x1080.mp4"]
    assert Counter(steps_started(events(near)))["measure.2"] == 1, "nothing was measured again"


# -- groups and hard pictures -----------------------------------------------------------------------------------------

WHY = {
    "debate_two.jpg": "one_face.faces",
    "emma_three_poses.jpg": "one_face.faces",
    "friends_six.jpg": "one_face.faces",
    "kit_rose.jpg": "one_face.faces",
    "lecun_hinton_bengio.png": "one_face.faces",
    "multi_face_five.jpg": "one_face.faces",
    "obama_biden.jpg": "one_face.faces",
    "selfie_many.jpg": "one_face.faces",
    "solvay1927_29_faces.jpg": "one_face.faces",
    "stock_group_many.jpg": "one_face.faces",
    "three_women_3352px.jpg": "one_face.faces",
    "two_people_obama_biden.jpg": "one_face.faces",
    "dog.jpg": "one_face.faces",
    "no_face_vector.jpg": "one_face.faces",
    "same_image_240p.jpg": "duplicate.perceptual",
    "same_image_480p.jpg": "duplicate.perceptual",
    "same_image_720p.jpg": "duplicate.perceptual",
    "same_image_1080p.jpg": "face.face_share",
    "painting.jpg": "face.face_share",
    "partial_face.jpg": "occlusion.occlusion",
    "statue.jpg": "occlusion.occlusion",
    # Nothing is wrong with these but that each person is there once.
    "cartoon.jpg": "identity.too_few",
    "expr_sad_glasses.jpg": "identity.too_few",
    "laugh_profile.png": "identity.too_few",
    "mirror_of_df_img11.jpg": "identity.too_few",
    "yaw_15.jpg": "identity.too_few",
    "yaw_45.jpg": "identity.too_few",
}
SCREAMS = {"expr_anger.png", "expr_grimace.png", "expr_mouth_open.jpg", "expr_surprise.jpg"}
"""Known limit of the occlusion cue: a mouth torn open unsettles the mesh as a covered one does."""
FACES = {
    "debate_two.jpg": 2,
    "emma_three_poses.jpg": 3,
    "friends_six.jpg": 6,
    "kit_rose.jpg": 2,
    "lecun_hinton_bengio.png": 3,
    "multi_face_five.jpg": 5,
    "solvay1927_29_faces.jpg": 29,
    "three_women_3352px.jpg": 3,
    "two_people_obama_biden.jpg": 2,
    "dog.jpg": 0,
    "no_face_vector.jpg": 0,
}


@pytest.mark.parametrize(("name", "reason"), sorted(WHY.items()))
def test_an_awkward_picture_is_rejected_for_the_right_reason(awkward: Path, name: str, reason: str) -> None:
    assert reasons(awkward)[name] == reason


def test_screams_are_lost_to_no_other_gate(awkward: Path) -> None:
    assert {reasons(awkward)[name] for name in SCREAMS} <= {"occlusion.occlusion", "identity.too_few"}


def test_faces_are_counted(awkward: Path) -> None:
    found = {row["name"]: row["faces"] for row in rows(awkward, "measure.2", "name", "faces")}
    assert {name: found[name] for name in FACES} == FACES


def test_a_crop_is_no_pair_with_its_photo(awkward: Path) -> None:
    """`crop_of_lecun` is cut from `02_pulid`."""
    pairs = rows(awkward, "pair", *PAIR)
    names = [{pair["a_name"], pair["b_name"]} for pair in pairs if pair["status"] == "kept"]
    assert {"crop_of_lecun.jpg", "02_pulid.jpg"} not in names
    assert any("crop_of_lecun.jpg" in name for name in names), "but one with the other photos of the person"


def test_copies_are_no_pairs_even_when_nothing_looked_for_duplicates(
    fixtures: Path, awkward: Path, tmp_path: Path
) -> None:
    inputs = [fixtures / "groups", fixtures / "hard", fixtures / "identities" / "obama"]
    sets = ("dedup.perceptual=null", "gate.3.face.face_share.min=0.02")
    loose = again(awkward, tmp_path / "loose", [*inputs, fixtures / "identities" / "lecun"], *SMALLER, *sets)
    copies = {f"same_image_{size}.jpg" for size in ("240p", "480p", "720p", "1080p")}
    one = {row["identity"] for row in rows(loose, "identify", *IDENTITY, kept=True) if row["name"] in copies}
    assert len(one) == 1
    pairs = rows(loose, "pair", *PAIR)
    both = [pair for pair in pairs if {pair["a_name"], pair["b_name"]} <= copies]
    assert both
    assert {pair["status"] for pair in both} == {"rejected"}
    assert {pair["reason"] for pair in both} <= {"pair.similarity.high", "pair.copy.face_correlation"}
    # 24 of the files were measured before; only the three former duplicates are new to the networks.
    measured = [event for event in events(loose) if event["event"] == "step_start" and event["step"] == "measure.2"]
    assert measured[1]["rows"] == measured[0]["rows"] + 3


# -- what comes out ---------------------------------------------------------------------------------------------------


def _exported(run: Path) -> list[dict[str, Any]]:
    files = sorted((run / "dataset" / "data").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_what_the_manifest_says_reaches_the_data_set(small: Path) -> None:
    exported = _exported(small)
    assert len(exported) >= 40
    for row in exported:
        assert row["identity"] in PEOPLE
        for side in "ab":
            assert row[f"{side}_source"] == f"archive of {row['identity']}"
            assert row[f"{side}_licence"] == "CC-BY-4.0"
            assert row[f"{side}_consent"] == f"form of {row['identity']}"
            assert json.loads(row[f"{side}_extra"])["photographer"] == "A. Ünal"
            assert "/" not in row[f"{side}_uri"], "no path of this machine"
    card = (small / "dataset" / "README.md").read_text(encoding="utf-8")
    assert all(f"archive of {name}" in card and f"form of {name}" in card for name in PEOPLE)


def test_the_data_set_opens_with_images(unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    opened = datasets.load_dataset(str(unlabelled / "dataset"), cache_dir=str(tmp_path / "cache"))
    assert set(opened) == {"train", "val"}
    kept = rows(unlabelled, "pair", *PAIR, kept=True)
    assert sum(len(split) for split in opened.values()) == len(kept)
    people = {name: set(split["identity"]) for name, split in opened.items()}
    assert not people["train"] & people["val"]
    assert people["val"]
    row = opened["val"][0]
    for side in "ab":
        assert row[f"{side}_image"].size == (row[f"{side}_width"], row[f"{side}_height"])


def test_tune_agrees_with_a_run(fixtures: Path, unlabelled: Path, tmp_path: Path) -> None:
    """A tighter bound is foretold to the row; a looser one for the gate itself."""
    told = answer("tune", unlabelled, "--sweep", "pose.yaw.abs_max=10,60", "--sweep", "short_side.min=100,200")
    yaw, side = told["curves"]
    tight = again(unlabelled, tmp_path / "tight", [fixtures / "identities"], *SMALLER, "identify.by=cluster",
                  "gate.3.pose.yaw.abs_max=10")  # fmt: skip
    ten, sixty = yaw["points"]
    assert ten["at_step"] == entry(tight, "gate.3")["kept"] < sixty["at_step"] == entry(unlabelled, "gate.3")["kept"]
    assert sixty["kept"] == entry(unlabelled, "identify")["kept"]
    assert sixty["identities"] == len({row["identity"] for row in rows(unlabelled, "identify", "identity", kept=True)})
    loose = again(unlabelled, tmp_path / "loose", [fixtures / "identities"], "identify.by=cluster",
                  "gate.resolution.short_side.min=100")  # fmt: skip
    hundred = side["points"][0]
    assert hundred["at_step"] == entry(loose, "gate")["kept"] == 161
    assert hundred["unknown"] == 5
    now = entry(loose, "identify")["kept"]
    assert hundred["kept"] <= now <= hundred["kept"] + hundred["unknown"]


def test_explain_tells_of_a_kept_and_of_a_rejected_photo(unlabelled: Path) -> None:
    photo = rows(unlabelled, "export", "a_id", "a_name", "identity", "split")[0]
    kept = answer("explain", unlabelled, photo["a_id"])
    assert kept["what"] == "image"
    assert kept["source"]["name"] == photo["a_name"]
    assert kept["verdict"].startswith("kept up to identify")
    assert kept["identity"]["identity"] == photo["identity"]
    assert kept["pairs"]["counts"]["kept"] >= 1
    checks = [check for step in kept["steps"] for check in step.get("checks", ())]
    assert {check["gate"] for check in checks} >= {"resolution", "clarity", "one_face", "face", "pose", "occlusion"}
    assert all(check["passes"] for check in checks)

    lost = answer("explain", unlabelled, "sheldon/00_face-apijs.png")
    assert lost["verdict"].startswith("rejected in gate: resolution.short_side")
    assert lost["steps"][-1]["value"] == 150
    assert lost["steps"][-1]["threshold"] == ">= 200"
    assert not lost["pairs"]["listed"]

    told = idtool("explain", unlabelled, "sheldon/00_face-apijs.png")
    assert "resolution.short_side" in told.stdout
    assert "150" in told.stdout


# -- runs -------------------------------------------------------------------------------------------------------------


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_fresh_runs_are_equal(small: Path, manifest: Path, tmp_path: Path) -> None:
    other = curate(tmp_path / "other", [manifest], *SMALLER)
    assert tables(other) == tables(small)
    assert _files(other / "dataset") == _files(small / "dataset")


def test_ray_writes_the_same_tables(small: Path, manifest: Path, tmp_path: Path) -> None:
    other = curate(tmp_path / "ray", [manifest], *SMALLER, engine="ray")
    assert Run(other).manifest["engine"] == "ray"
    assert tables(other) == tables(small)
    assert _files(other / "dataset") == _files(small / "dataset")


def test_the_same_command_again_does_nothing_and_a_new_file_is_all_that_is_measured(
    fixtures: Path, small: Path, manifest: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small, run)
    folder = tmp_path / "collection"
    shutil.copytree(manifest.parent, folder)  # keeps times, so that the listing is the same but for its paths
    before = len(events(run))
    curate(run, [manifest], *SMALLER)
    assert steps_started(events(run)[before:]) == []

    curate(run, [folder / "manifest.csv"], *SMALLER)
    before = len(events(run))
    name = "scarlett one more.jpg"
    shutil.copyfile(fixtures / "identities" / "cb_id5" / "00_celebbasis.jpg", folder / name)
    with open(folder / "manifest.csv", "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow([name, "someone", "", "", "", ""])
    curate(run, [folder / "manifest.csv"], *SMALLER)
    log = events(run)[before:]
    assert "measure.2" in steps_started(log)
    notes = {event["text"] for event in log if event["event"] == "note"}
    for step in ("ingest", "frames", "measure", "measure.2"):
        others = entry(run, step)["kept"] + entry(run, step)["rejected"] - 1
        assert f"{step}: {others} rows taken over from the earlier run" in notes
    assert reasons(run)[name] == "identity.too_few"
    assert {row["identity"] for row in rows(run, "pair", "identity", kept=True)} == set(PEOPLE)
