"""Step `requests`: who is asked for, by which photos, with which words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from idtool.curate.dpo.requests import Requests, RequestsSettings
from idtool.engine.step import Binding, Env
from idtool.errors import UsageError
from tests.curate.dpo.photos import group, portrait, table
from tests.curate.tables import run

ENV = Env("toy", {"identity": (Binding("identity", "toy", thresholds={"same_person": 0.5}),)})


def asked(folder: Path, rows: Sequence[dict[str, Any]], env: Env = ENV, **settings: Any) -> dict[str, dict[str, Any]]:
    step = Requests(RequestsSettings.model_validate(settings), env)
    return run(step, table(folder / "photos", rows), folder)


def kept(found: dict[str, dict[str, Any]], origin: str = "request") -> list[dict[str, Any]]:
    return [row for row in found.values() if row["status"] == "kept" and row["origin"] == origin]


PEOPLE = [portrait(name, shot) for name in ("ada", "ben", "cem") for shot in range(3)]


def test_a_target_is_a_photo_of_somebody_else_and_everybody_is_asked_for_equally_often(tmp_path: Path) -> None:
    found = kept(asked(tmp_path, PEOPLE, by="targets", count=12, seeds=2))
    assert len(found) == 24 and len({row["group"] for row in found}) == 12
    for row in found:
        (reference,), (name,) = row["references"], row["people"]
        assert reference.startswith(f"/photos/{name}/") and row["identity"] == name
        assert name not in row["prompt"] and row["parent"].split("-")[0] in row["prompt"]
        assert row["licence"] == f"terms of {row['parent'].split('-')[0]}; terms of {name}"
    assert set(Counter(row["identity"] for row in found).values()) == {8}
    assert max(Counter(row["references"][0] for row in found).values()) <= 4
    assert max(Counter(row["parent"] for row in found).values()) <= 4


def test_the_images_of_a_request_differ_in_their_seed_alone_and_are_the_same_again(tmp_path: Path) -> None:
    found = asked(tmp_path / "a", PEOPLE, by="targets", count=3, seeds=8)
    for name in {row["group"] for row in found.values()}:
        rows = [row for row in found.values() if row["group"] == name]
        assert len({row["generator_seed"] for row in rows}) == 8 == len(rows)
        assert len({row["prompt"] for row in rows}) == 1
        assert all(0 <= row["generator_seed"] < 2**31 for row in rows)
    assert asked(tmp_path / "b", PEOPLE, by="targets", count=3, seeds=8) == found


def test_fewer_pairs_than_were_asked_for_are_all_of_them(tmp_path: Path) -> None:
    two = [portrait("ada"), portrait("ben"), portrait("ben", 1)]
    found = kept(asked(tmp_path, two, by="targets", count=300, seeds=1))
    assert {(row["references"][0], row["parent"]) for row in found} == {
        ("/photos/ada/0.jpg", "ben-0"),
        ("/photos/ada/0.jpg", "ben-1"),
        ("/photos/ben/0.jpg", "ada-0"),
        ("/photos/ben/1.jpg", "ada-0"),
    }


def test_two_targets_of_one_prompt_ask_once(tmp_path: Path) -> None:
    rows = [portrait("ada"), *(portrait("ben", shot, scene_prompt="a person") for shot in range(2))]
    assert len(kept(asked(tmp_path, rows, by="targets", count=9, seeds=1))) == 3


def test_men_are_not_asked_for_by_photos_of_women(tmp_path: Path) -> None:
    told = {"ada": 0.9, "ben": 0.1, "cem": 0.2, "dan": None}
    rows = [portrait(name, shot, female=female) for name, female in told.items() for shot in range(2)]
    found = kept(asked(tmp_path / "same", rows, by="targets", count=60, seeds=1))
    pairs = {frozenset((row["identity"], row["parent"].split("-")[0])) for row in found}
    assert frozenset(("ben", "cem")) in pairs and not pairs & {frozenset(("ada", "ben")), frozenset(("ada", "cem"))}
    assert frozenset(("ada", "dan")) in pairs  # unknown fits everybody
    mixed = kept(asked(tmp_path / "mixed", rows, by="targets", count=60, seeds=1, same_gender=False))
    assert frozenset(("ada", "ben")) in {frozenset((row["identity"], row["parent"].split("-")[0])) for row in mixed}


def test_photos_without_words_and_people_without_company_are_told(tmp_path: Path) -> None:
    found = asked(tmp_path / "words", [portrait("ada", scene_prompt=None), *PEOPLE[3:]], by="targets", count=2)
    assert found["ada-0"]["reason"] == "requests.no_prompt" and found["ada-0"]["status"] == "rejected"
    alone = asked(tmp_path / "alone", PEOPLE[:3], by="targets")
    assert {row["reason"] for row in alone.values()} == {"requests.alone"} and len(alone) == 3


def test_the_people_of_a_group_photo_are_shown_from_left_to_right_by_their_best_portraits(tmp_path: Path) -> None:
    photo = group("party", ["cem", "ada"])
    found = asked(tmp_path, [*PEOPLE, photo], by="groups", seeds=4)
    requests, (own,) = kept(found), kept(found, "photo")
    assert len(requests) == 4 and {row["parent"] for row in requests} == {"party"}
    for row in (*requests, own):
        assert row["people"] == ["cem", "ada"] and row["identity"] == "ada + cem"
        assert row["references"] == ["/photos/cem/2.jpg", "/photos/ada/2.jpg"]
        assert row["prompt"] == "A photo of 2 people." and row["group"] == own["group"]
        left, right = row["boxes"]
        assert left == pytest.approx([0.0, (40 - 0.6 * 60) / 300, 150 / 400, 1.0])
        assert right[0] == pytest.approx(200 / 400)
        assert row["licence"] == "terms of the photo; terms of cem; terms of ada"
    assert own["media"] == photo["media"] and own["kind"] == "image"


def test_group_photos_that_cannot_be_asked_for_say_why(tmp_path: Path) -> None:
    photos = [
        group("crowd", ["ada", "ben", "cem", "dan"]),
        group("guest", ["ada", "eve"]),
        group("twins", ["ada", "ada"]),
        group("mute", ["ada", "ben"], scene_prompt=None),
    ]
    found = asked(tmp_path, [*PEOPLE, *photos], by="groups")
    reasons = {name: row["reason"] for name, row in found.items()}
    assert reasons == {
        "crowd": "requests.people",
        "guest": "requests.stranger",
        "twins": "requests.twice",
        "mute": "requests.no_prompt",
    }
    assert found["guest"]["value"] < 0.5 and found["guest"]["threshold"] == ">= 0.5"
    lone = asked(tmp_path / "lone", [group("party", ["ada", "ben"])], by="groups")
    assert lone["party"]["reason"] == "requests.stranger"


def test_groups_need_to_know_when_two_faces_are_of_one_person() -> None:
    uncalibrated = Env("toy", {"identity": (Binding("identity", "toy"),)})
    with pytest.raises(UsageError, match="same_person"):
        Requests(RequestsSettings(by="groups"), uncalibrated).config()
    assert Requests(RequestsSettings(by="groups", threshold=0.3), uncalibrated).threshold == 0.3
