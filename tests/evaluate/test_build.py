"""From suites and people to requests: counts, balance, draws that depend on nothing but labels and the seed."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idtool.engine.step import Binding, Env
from idtool.errors import MissingError, RunFailed, UsageError
from idtool.evaluate.build import groups, requests_per_method, wishes
from idtool.evaluate.cells import cell_of, choose, level_of
from idtool.evaluate.identities import Identity
from idtool.evaluate.prompting import captioner
from idtool.evaluate.suite import Suite, load_suite, suite_names
from idtool.generate.dynamic_prompt import Rewritten
from idtool.generate.requests import Wish, rows
from tests.models.chat_server import ChatServer, fails, says

AGES = ("elderly", "young", "children")
ETHNICITIES = ("Caucasian", "African", "Asian", "South Asian")


def somebody(label: str, **more) -> Identity:
    uris = (f"/pictures/{label}/1.png", f"/pictures/{label}/2.png")
    return Identity(label, uris, more, {uris[1]: f"a picture of {label}"})


def crowd(each: int = 45) -> list[Identity]:
    """`each` people in all of DMID's cells."""
    return [
        somebody(f"{age}-{ethnicity}-{k:02d}", age=age, ethnicity=ethnicity, gender=("woman", "man")[k % 2])
        for age, ethnicity in product(AGES, ETHNICITIES)
        for k in range(each)
    ]


def suite_of(**more) -> Suite:
    return Suite.model_validate(
        {
            "name": "test",
            "summary": "a test",
            "prompts": ["a person"],
            "metrics": ["facesim"],
            "primary": {"identity": "facesim", "prompt": "facesim"},
            **more,
        }
    )


def extra(wish: Wish) -> dict:
    return json.loads(wish.extra)


@pytest.mark.parametrize("name", suite_names())
def test_every_packaged_suite_builds_the_number_of_requests_that_it_says(name):
    suite, people = load_suite(name), crowd()
    made = wishes(suite, people, seed=3)
    expected = suite.requests(suite.identities.count or len(people))
    assert len(made) == requests_per_method(suite, people, 3) == (expected if expected is not None else len(made))
    assert requests_per_method(suite) == suite.requests()
    if name == "charis":
        assert len(made) == len(people) * 6  # nobody is called like a subject of Figure 5
    for wish in made:
        assert "{" not in wish.prompt
        assert len(wish.references) == len(wish.people) == len(set(wish.people))
        for values in extra(wish)["targets"].values():
            assert len(values) == len(wish.people)
    assert len({(wish.prompt, wish.references, wish.seed) for wish in made}) == len(made)


@pytest.mark.parametrize("name", suite_names())
def test_draws_depend_on_neither_the_order_nor_the_place_of_files(name):
    suite, people = load_suite(name), crowd(9)
    suite = suite.with_count(suite.identities.count and 60)
    mixed = people.copy()
    random.Random(0).shuffle(mixed)
    assert wishes(suite, people, 5) == wishes(suite, mixed, 5)
    moved = [
        Identity(one.label, tuple(f"/elsewhere{uri}" for uri in one.references), one.attributes,
                 {f"/elsewhere{uri}": text for uri, text in one.captions.items()})
        for one in people
    ]  # fmt: skip
    told = [
        [(one.people, one.prompt, one.seed, one.extra) for one in wishes(suite, some, 5)] for some in (people, moved)
    ]
    assert told[0] == told[1]


def test_another_seed_draws_other_people_and_other_combinations():
    suite, people = load_suite("dynamicid-single").with_count(100), crowd()
    one, two = (wishes(suite, people, seed) for seed in (0, 1))
    assert {wish.people for wish in one} != {wish.people for wish in two}
    both = sorted({wish.people for wish in one} & {wish.people for wish in two})
    drawn = [{wish.prompt for wish in some if wish.people == both[0]} for some in (one, two)]
    assert drawn[0] != drawn[1]


def test_cells_are_equal_and_a_prompt_is_the_caption_of_somebody_else_alike():
    suite, people = load_suite("dmid-id"), crowd()
    made = wishes(suite, people)
    by_label = {one.label: one for one in people}
    cells = Counter(cell_of(by_label[wish.people[0]], suite) for wish in made)
    assert set(cells) == set(product(AGES, ETHNICITIES))
    assert set(cells.values()) == {42}
    for wish in made:
        [own] = wish.people
        other = by_label[wish.prompt.removeprefix("a picture of ")]
        assert other.label != own
        assert other.attributes == by_label[own].attributes
        assert extra(wish)["slices"] == by_label[own].attributes
    assert max(Counter(wish.prompt for wish in made).values()) == 1


def test_a_shortage_names_the_cells_and_how_many_each_lacks():
    suite = load_suite("dmid-id")
    people = [one for one in crowd() if not (one.label.startswith("children-Asian") and one.label[-2:] > "29")]
    with pytest.raises(UsageError) as error:
        wishes(suite, [*people, somebody("nobody knows", age="ageless", ethnicity="Asian")])
    assert "needs 42 people in each of 12 cells" in str(error.value)
    assert "age=children, ethnicity=Asian: 30 of 42, 12 missing" in str(error.value)
    assert "1 have no label for age, ethnicity that the suite knows" in str(error.value)
    assert str(error.value).count("missing") == 1
    with pytest.raises(UsageError, match="50 people cannot be spread evenly over 12 cells"):
        wishes(suite.with_count(50), people)
    as_many = wishes(suite.with_count(None), people)
    assert len(as_many) == 12 * 30
    with pytest.raises(UsageError, match=r"needs 500 people and got 2; 1 have fewer than 1 pictures"):
        wishes(load_suite("dynamicid-single"), [somebody("a"), somebody("b"), Identity("c", ())])
    with pytest.raises(UsageError, match="shows 3 people in one image and got 1"):
        wishes(suite_of(people=3), [somebody("a")])
    with pytest.raises(UsageError, match="Two people are called 'a'"):
        wishes(suite_of(), [somebody("a"), somebody("a")])


def test_labels_mean_values_by_word_and_by_number():
    levels = load_suite("dmid-id").identities.cells["age"]
    meant = {text: level_of(text, levels) for text in ("OLD", "60", "59.9", "13", "12", "0", "kid", "", "teen")}
    assert meant == {
        "OLD": "elderly", "60": "elderly", "59.9": None, "13": "young", "12": "children", "0": "children",
        "kid": "children", "": None, "teen": None,
    }  # fmt: skip


def test_somebody_who_is_taken_out_is_replaced_and_the_others_stay():
    suite, people = load_suite("dmid-id"), crowd()
    before = {one.label for one in choose(suite, people)}
    gone = min(before)
    after = {one.label for one in choose(suite, [one for one in people if one.label != gone])}
    assert before - after == {gone}
    assert len(after - before) == 1
    assert (after - before).pop()[:-3] == gone[:-3]


def test_captions_of_nobody_else_are_an_error():
    suite = suite_of(prompts=[], captions={"same": ["gender"]})
    people = [somebody("a", gender="woman"), somebody("b", gender="man"), Identity("c", ("/c",), {"gender": "man"})]
    with pytest.raises(UsageError, match=r"no captioned picture of anybody but a \(gender: woman\)"):
        wishes(suite, people)
    made = {wish.people[0]: wish.prompt for wish in wishes(suite_of(prompts=[], captions={}), people)}
    assert made["c"] in ("a picture of a", "a picture of b")
    odd = [somebody("a"), Identity("b", ("/b",), {}, {"/b": "a sign that says {class}"})]
    assert wishes(suite_of(prompts=[], captions={}), odd)[0].prompt in ("a sign that says {class}", "a picture of a")


def test_every_person_gets_every_prompt_once_and_factors_as_often_as_can_be():
    suite, people = load_suite("dynamicid-single").with_count(8), crowd(2)
    made = [wish for wish in wishes(suite, people) if wish.seed == 0]
    for label in {wish.people for wish in made}:
        own = [extra(wish) for wish in made if wish.people == label]
        told = [wish.prompt.partition(", ")[2] for wish in made if wish.people == label]
        assert sorted(told) == sorted(prompt.text for prompt in suite.prompts)
        pairs = [(one["targets"]["expression"][0], one["targets"]["orientation"][0]) for one in own]
        assert len(set(pairs)) == 20
    whole = suite.model_copy(update={"draw": type(suite.draw)(kind="sample", n=560), "seeds": (0,)})
    grid = suite.model_copy(update={"draw": type(suite.draw)(), "seeds": (0,)})
    assert {(w.people, w.prompt) for w in wishes(whole, people)} == {(w.people, w.prompt) for w in wishes(grid, people)}


def test_templates_say_what_the_paper_says():
    single = wishes(load_suite("dynamicid-single").with_count(60), crowd())
    assert "a person with a happy expression in a side view, wearing headphones" in {wish.prompt for wish in single}
    multi = load_suite("dynamicid-multi").with_count(200)
    for wish in wishes(multi, crowd()):
        targets = extra(wish)["targets"]
        words = {"neutral": "a", "happy": "a", "disgusted": "a", "surprised": "a", "sad": "a"}
        for side, expression in zip(("left", "right"), targets["expression"], strict=True):
            assert f"on the {side} has {words.get(expression, 'an')} {expression} expression" in wish.prompt
        painted = "a painting" in wish.prompt
        assert ("both" in wish.prompt) != painted
        same = len(set(targets["expression"])) == 1
        assert extra(wish)["slices"]["expression"] == (targets["expression"][0] if same else "mixed")


def test_groups_of_two_and_three_share_nobody_and_both_tasks_have_the_same():
    people = crowd()
    fusion, age = (wishes(load_suite(name), people) for name in ("idglow-fusion", "idglow-age"))
    shown = {wish.people for wish in fusion}
    assert Counter(map(len, shown)) == {2: 50, 3: 50}
    assert len({label for labels in shown for label in labels}) == 250
    assert shown == {wish.people for wish in age}
    assert all(("two" if len(wish.people) == 2 else "three") in wish.prompt for wish in fusion)
    assert Counter(extra(wish)["slices"]["people"] for wish in fusion) == {"2": 250, "3": 250}
    seven = list(groups(suite_of(people=3, groups=[2, 3]), people[:6]))
    assert [len(group) for group in seven] == [2, 3]


def test_class_words_defaults_and_prompts_for_some():
    suite = suite_of(
        prompts=["a {class} in the snow", {"text": "the {class} of ada", "only": ["ada"]}],
        identities={"defaults": {"class": "person"}},
    )
    people = [somebody("ada", **{"class": "girl"}), somebody("ben")]
    made = {(wish.people[0], wish.prompt) for wish in wishes(suite, people)}
    assert made == {("ada", "a girl in the snow"), ("ada", "the girl of ada"), ("ben", "a person in the snow")}
    bare = suite_of(prompts=["a {hair} person"])
    with pytest.raises(UsageError, match=r"Suite test, ben: Nothing fills \{hair\}"):
        wishes(bare, people)
    with pytest.raises(UsageError, match="no prompt for any of these people"):
        wishes(suite_of(prompts=[{"text": "x", "only": ["nobody"]}]), people)


def test_references_and_seeds_multiply_and_sizes_are_passed_on():
    suite = suite_of(identities={"per_person": 2}, seeds=[0, 7], size={"width": 640, "height": 512})
    made = wishes(suite, [somebody("ada")], seed=10)
    assert [(wish.references[0][-5:], wish.seed) for wish in made] == [
        ("1.png", 10), ("1.png", 17), ("2.png", 10), ("2.png", 17)
    ]  # fmt: skip
    assert {(wish.width, wish.height) for wish in made} == {(640, 512)}
    assert requests_per_method(suite, [somebody("ada")]) == 4


def test_requests_become_rows_of_a_run_one_each(tmp_path):
    people = []
    for label in ("ada", "ben"):
        path = tmp_path / f"{label}.png"
        Image.fromarray(np.full((8, 8, 3), 40 if label == "ada" else 90, np.uint8)).save(path)
        people.append(Identity(label, (str(path),)))
    made = wishes(load_suite("smoke"), people)
    table = list(rows(made))
    assert len(table) == len(made) == 24
    assert len({row["id"] for row in table}) == 24
    assert all(row["other"] and row["other"] not in row["references"] for row in table)


def pictured(folder: Path) -> list[Identity]:
    people = []
    for k, label in enumerate(("ada", "ben", "cleo", "dora", "eve")):
        path = folder / f"{label}.png"
        Image.fromarray(np.full((8, 8, 3), 20 * k, np.uint8)).save(path)
        people.append(Identity(label, (str(path),)))
    return people


def test_dynamic_prompts_are_written_once_for_each_scene_and_failures_are_told(tmp_path):
    people = pictured(tmp_path)
    suite = load_suite("idglow-fusion").with_count(5)
    both = suite.model_copy(update={"prompting": "both", "seeds": (0, 1)})
    with pytest.raises(MissingError, match="no captioner"):
        wishes(both, people)
    asked = []

    def write(requests):
        asked.extend(requests)
        return [
            Rewritten(one.prompt, "refused", "no") if "kitchen" in one.prompt else Rewritten(f"{one.prompt} By day.")
            for one in requests
        ]

    made = wishes(both, people, writer=write)
    assert len(asked) == 2 * len(suite.prompts)
    assert all(len(one.people) in (2, 3) and one.people[0].image.shape == (8, 8, 3) for one in asked)
    assert len(made) == both.requests() == 2 * len(suite.prompts) * 2 * 2
    ways = Counter(extra(wish)["slices"]["prompting"] for wish in made)
    assert ways == {"static": 20, "dynamic": 16, "static: refused": 4}
    assert all(wish.prompt.endswith("By day.") == (extra(wish)["slices"]["prompting"] == "dynamic") for wish in made)
    only = wishes(suite.model_copy(update={"prompting": "dynamic"}), people, writer=write)
    assert len(only) == 10


def test_the_profiles_captioner_writes_them_and_a_broken_one_stops_the_work(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "cache"))
    texts = {name: f"some {name}" for name in ("appearance", "clothing", "position")}
    whole = {name: f"some {name}" for name in ("scene", "light", "interaction", "layout")}
    told = json.dumps({"people": [{"picture": k, **texts} for k in (1, 2)], **whole})
    people = pictured(tmp_path)[:2]
    suite = load_suite("idglow-age").with_count(2).model_copy(update={"prompting": "dynamic"})
    with pytest.raises(MissingError, match="binds no model to role 'captioner'"):
        captioner(Env("none", {}))
    with ChatServer().running() as server:
        options = {"base_url": server.url, "cache": False, "backoff": 0.01, "timeout": 5.0, "retries": 0, "repairs": 0}
        writer = captioner(Env("api", {"captioner": (Binding("captioner", "api:tiny-vlm", options=options),)}))
        server.script(says(told))
        made = wishes(suite, people, writer=writer)
        assert all("The person of Picture 2: some appearance, some clothing" in wish.prompt for wish in made)
        assert {extra(wish)["slices"]["prompting"] for wish in made} == {"dynamic"}
        server.script(says("no JSON at all"))
        made = wishes(suite, people, writer=writer)
        assert {extra(wish)["slices"]["prompting"].partition(":")[0] for wish in made} == {"static"}
        server.script(fails(500))
        with pytest.raises(RunFailed, match="No prompt could be written"):
            wishes(suite, people, writer=writer)
