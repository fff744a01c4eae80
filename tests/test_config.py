"""pipelines.yaml: places and sentences of errors, overrides, lookup, schema, and the packaged file itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml
from pydantic import ConfigDict, Field, field_validator

from idtool.config import FILE, ConfigFile, Steps, load_config, packaged_text
from idtool.config_schema import HEADER, json_schema, write_starter
from idtool.engine.step import Settings, Step
from idtool.errors import UsageError
from idtool.registry import Registry
from idtool.yaml_source import parse


class Bound(Settings):
    min: int | float | None = None
    max: float | None = None
    mode: Literal["soft", "hard"] = "hard"


class GateSettings(Settings):
    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, dict[str, Bound]]


class FramesSettings(Settings):
    fps: float = Field(20, gt=0)
    every: int | None = None
    names: tuple[str, ...] = ()

    @field_validator("names")
    @classmethod
    def _no_duplicates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names must differ.")
        return value


class FakeGate(Step):
    kind = "gate"
    Settings: ClassVar[type[Settings]] = GateSettings


class FakeFrames(Step):
    kind = "frames"
    Settings: ClassVar[type[Settings]] = FramesSettings
    summary = "cut videos"


@pytest.fixture
def steps() -> Steps:
    return Registry("step", {"gate": FakeGate, "frames": FakeFrames})


GOOD = """\
version: 1
auto: [small]
profiles:
  small:
    summary: a profile
    roles:
      faces: {model: scrfd-500m, licence: MIT, commercial: no}
      identity:
        - {model: arcface-mbf, licence: MIT, thresholds: {same_person: 0.4}}
        - {model: "hf:some/repo", licence: MIT}
recipes:
  toy:
    summary: a recipe
    steps:
      - step: frames
        fps: 5
      - step: gate
        resolution: {short_side: {min: 768}}
      - step: gate
        face: {score: {min: 0.5}}
"""


def load(text: str, steps: Steps, tmp_path: Path, models: list[str] | None = None) -> ConfigFile:
    path = tmp_path / "mine.yaml"
    path.write_text(text, "utf-8")
    return load_config(path, steps, models)


def problems(text: str, steps: Steps, tmp_path: Path, models: list[str] | None = None) -> list[str]:
    with pytest.raises(UsageError) as caught:
        load(text, steps, tmp_path, models)
    assert caught.value.exit_code == 2
    return [line.replace(f"{tmp_path}/", "") for line in caught.value.message.splitlines()]


def test_good_file_resolves(steps: Steps, tmp_path: Path) -> None:
    file = load(GOOD, steps, tmp_path, ["scrfd-500m", "arcface-mbf"])
    resolved = file.resolve("toy")
    assert [(step.name, step.kind) for step in resolved.steps] == [
        ("frames", "frames"), ("gate", "gate"), ("gate.2", "gate"),
    ]  # fmt: skip
    assert resolved.steps[0].settings == FramesSettings(fps=5)
    bindings = file.profile("small").bindings()
    assert [binding.model for binding in bindings["identity"]] == ["arcface-mbf", "hf:some/repo"]
    assert bindings["identity"][0].thresholds == {"same_person": 0.4}
    assert bindings["faces"][0].role == "faces"
    assert file.config.profiles["small"].roles["faces"][0].commercial == "no"
    assert yaml.safe_load(resolved.to_yaml())["steps"] == [
        {"step": "frames", "fps": 5.0, "names": []},
        {"step": "gate", "resolution": {"short_side": {"min": 768, "mode": "hard"}}},
        {"step": "gate", "face": {"score": {"min": 0.5, "mode": "hard"}}},
    ]


def test_written_out_recipe_means_the_same(steps: Steps, tmp_path: Path) -> None:
    class Swap(Step):
        kind = "swap"

        class Settings(Settings):
            bound: Bound | None = Bound(min=1)
            other: Bound | None = None

    steps.register("swap", Swap)
    file = load(GOOD + "      - {step: swap, bound: null}\n", steps, tmp_path)
    content = file.resolve("toy", ["frames.every=3"]).content()
    assert content["steps"][-1] == {"step": "swap", "bound": None}  # null is not the default here
    again = yaml.safe_load(GOOD)
    again["recipes"] = {"toy": {"summary": "s", "steps": content["steps"]}}
    resolved = load(yaml.safe_dump(again), steps, tmp_path).resolve("toy")
    assert resolved.steps == file.resolve("toy", ["frames.every=3"]).steps


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "{min: 768}",
            "{mim: 768}",
            "mine.yaml:18: recipes.toy.steps[1] (gate).resolution.short_side: unknown key 'mim'. Did you mean 'min'? "
            "Expected one of: max, min, mode.",
        ),
        (
            "{min: 768}",
            "{min: many}",
            "mine.yaml:18: recipes.toy.steps[1] (gate).resolution.short_side.min: expected a whole number or a number, "
            "found 'many'.",
        ),
        (
            "{min: 768}",
            "{mode: sofd}",
            "mine.yaml:18: recipes.toy.steps[1] (gate).resolution.short_side.mode: expected 'soft' or 'hard', "
            "found 'sofd'. Did you mean 'soft'?",
        ),
        (
            "{short_side: {min: 768}}",
            "7",
            "mine.yaml:18: recipes.toy.steps[1] (gate).resolution: expected keys with values, found 7.",
        ),
        ("fps: 5", "fps: 0", "mine.yaml:16: recipes.toy.steps[0] (frames).fps: expected a number above 0, found 0."),
        (
            "fps: 5",
            "fbs: 5",
            "mine.yaml:16: recipes.toy.steps[0] (frames): unknown key 'fbs'. Did you mean 'fps'? "
            "Expected one of: every, fps, names.",
        ),
        ("fps: 5", "names: [a, a]", "mine.yaml:16: recipes.toy.steps[0] (frames).names: names must differ."),
        ("fps: 5", "names: [a, 7]", "mine.yaml:16: recipes.toy.steps[0] (frames).names[1]: expected text, found 7."),
        (
            "step: frames",
            "step: frame",
            "mine.yaml:15: recipes.toy.steps[0]: Unknown step 'frame'. Did you mean 'frames'? Available: gate, frames.",
        ),
        (
            "- step: frames\n        fps: 5",
            "- fps: 5",
            "mine.yaml:15: recipes.toy.steps[0]: the kind of step is missing: expected `- step: <kind>`.",
        ),
        ("    summary: a recipe\n", "", "mine.yaml:12: recipes.toy: 'summary' is missing."),
        (
            "licence: MIT, commercial: no",
            "license: MIT",
            "mine.yaml:7: profiles.small.roles.faces: unknown key 'license'. Did you mean 'licence'? "
            "Expected one of: commercial, device, licence, model, options, revision, sha256, thresholds.",
        ),
        (
            "auto: [small]",
            "auto: [smal]",
            "mine.yaml:2: auto[0]: unknown profile 'smal'. Did you mean 'small'? Available: small.",
        ),
        (
            "model: arcface-mbf",
            "model: arcface-mfb",
            "mine.yaml:9: profiles.small.roles.identity[0].model: unknown model 'arcface-mfb'. "
            "Did you mean 'arcface-mbf'? Offline weights: scrfd-500m, arcface-mbf.",
        ),
        ("version: 1", "version: 2", "mine.yaml:1: version: expected 1, found 2."),
        (
            "        fps: 5\n",
            "        fps: 5\n        fps: 6\n",
            "mine.yaml:17: recipes.toy.steps[0].fps: given twice, first in line 16. Remove one.",
        ),
    ],
)  # fmt: skip
def test_each_problem_is_one_sentence_with_its_place(
    old: str, new: str, said: str, steps: Steps, tmp_path: Path
) -> None:
    assert old in GOOD
    found = problems(GOOD.replace(old, new, 1), steps, tmp_path, ["scrfd-500m", "arcface-mbf"])
    assert said in found
    assert len(found) <= 2  # a wrong licence key also leaves the right one missing


def test_all_problems_are_listed_at_once_in_the_order_of_the_file(steps: Steps, tmp_path: Path) -> None:
    text = GOOD.replace("version: 1", "version: 9").replace("fps: 5", "fps: -1").replace("0.5", "high")
    lines = [line.split(":")[1] for line in problems(text, steps, tmp_path)]
    assert lines == ["1", "16", "20"]


def test_no_more_than_ten_problems_are_told(steps: Steps, tmp_path: Path) -> None:
    text = GOOD + "      - {step: frames, fps: 0}\n" * 13
    found = problems(text, steps, tmp_path)
    assert len(found) == 11
    assert found[-1] == "and 3 more."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: [1", "mine.yaml:1:12: not valid YAML"),
        ("a: 1\n b: 2\n", "mine.yaml:2"),
        ("", "mine.yaml: expected the keys version, auto, profiles, methods, recipes, found none."),
        ("- 1\n", "mine.yaml:1: expected the keys"),
        ("a: &x [*x]\n", "aliases unfold without end"),
        ("a: 1\nb: 2024-13-45\n", "mine.yaml:2:4: not valid YAML: '2024-13-45'"),
        ("[" * 5000, "nested too deeply"),
        ("? [1, 2]\n: 3\n", "a key must be a plain name"),
        ("a: !!python/object/apply:os.system [true]\n", "not valid YAML"),
    ],
)
def test_text_that_is_no_configuration(text: str, said: str, steps: Steps, tmp_path: Path) -> None:
    assert said in "\n".join(problems(text, steps, tmp_path))


def test_aliases_that_unfold_to_too_much_are_refused(steps: Steps, tmp_path: Path) -> None:
    text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for level in range(1, 8):
        text += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    assert "aliases unfold without end" in problems(text, steps, tmp_path)[0]


def test_merge_keys_work_and_are_no_duplicates() -> None:
    source = parse("base: &b {x: 1, y: 2}\nmine:\n  <<: *b\n  y: 3\n", "f")
    assert source.data["mine"] == {"x": 1, "y": 3}
    assert source.problems == []
    assert source.marks["mine", "y"].line == 4


def test_words_that_yaml_takes_for_other_things_stay_keys() -> None:
    assert parse("no: 1\n7: 2\n", "f").data == {"no": 1, "7": 2}


def test_missing_and_unreadable_files(steps: Steps, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot read .*nowhere\.yaml: No such file"):
        load_config(tmp_path / "nowhere.yaml", steps)
    with pytest.raises(UsageError, match="Is a directory"):
        load_config(tmp_path, steps)
    (tmp_path / "latin.yaml").write_bytes(b"summary: caf\xe9\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_config(tmp_path / "latin.yaml", steps)


def test_lookup_order(steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text(GOOD, "utf-8")
    monkeypatch.setattr("idtool.config.packaged_text", lambda: GOOD.replace("toy", "shipped"))
    assert load_config(None, steps).origin == f"the packaged {FILE}"
    assert list(load_config(None, steps).config.recipes) == ["shipped"]
    (tmp_path / FILE).write_text(GOOD.replace("toy", "local"), "utf-8")
    assert load_config(None, steps).origin == f"./{FILE}"
    assert list(load_config(None, steps).config.recipes) == ["local"]
    assert list(load_config(other, steps).config.recipes) == ["toy"]


WHEN = GOOD.replace(
    "    steps:\n      - step: frames", "    when: {small: [frames.fps=3]}\n    steps:\n      - step: frames"
)


def test_a_recipe_changes_for_a_profile_and_the_command_line_has_the_last_word(steps: Steps, tmp_path: Path) -> None:
    file = load(WHEN, steps, tmp_path)

    def fps(sets: tuple[str, ...] = (), profile: str | None = None) -> Any:
        return file.resolve("toy", sets, profile).content()["steps"][0]["fps"]

    assert (fps(), fps(profile="small"), fps(profile="other")) == (5, 3, 5)
    assert fps(("frames.fps=9",), "small") == 9
    assert file.resolve("toy", (), "small").changes == ("frames.fps=3",)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "{smell: [frames.fps=3]}",
            "mine.yaml:14: recipes.toy.when.smell: unknown profile 'smell'. Did you mean 'small'?",
        ),
        ("{small: [frams.fps=3]}", "recipes.toy.when.small: --set frams.fps=3: the recipe has no step 'frams'."),
        ("{small: [frames.fps=-3]}", "(frames).fps: "),
    ],
)
def test_changes_that_fit_nothing_are_found_when_the_file_is_read(
    steps: Steps, tmp_path: Path, change: str, says: str
) -> None:
    (line,) = problems(WHEN.replace("{small: [frames.fps=3]}", change), steps, tmp_path)
    assert says in line


def test_unknown_recipe_and_profile_suggest(steps: Steps, tmp_path: Path) -> None:
    file = load(GOOD, steps, tmp_path)
    with pytest.raises(UsageError, match=r"has no recipe 'tyo'\. Did you mean 'toy'"):
        file.resolve("tyo")
    with pytest.raises(UsageError, match=r"has no profile 'smell'\. Did you mean 'small'\? Available: auto, small"):
        file.profile("smell")


def settings_of(file: ConfigFile, sets: list[str]) -> dict[str, Any]:
    return {step.name: step.settings.model_dump() for step in file.resolve("toy", sets).steps}


@pytest.mark.parametrize(
    ("sets", "step", "key", "value"),
    [
        (["frames.fps=10"], "frames", "fps", 10.0),
        (["frames.fps=10", "frames.fps=12.5"], "frames", "fps", 12.5),
        (["frames.every=null"], "frames", "every", None),
        (["frames.names=[a, b]"], "frames", "names", ("a", "b")),
        (["gate.resolution.short_side.min=512"], "gate", "resolution", {"short_side": Bound(min=512).model_dump()}),
        (["gate.1.light.level.max=3"], "gate", "light", {"level": Bound(max=3).model_dump()}),
        (["gate.2.face.score.min=0.9"], "gate.2", "face", {"score": Bound(min=0.9).model_dump()}),
        # A gate's own name finds it, whichever step it is in.
        (["gate.face.score.min=0.9"], "gate.2", "face", {"score": Bound(min=0.9).model_dump()}),
    ],
)  # fmt: skip
def test_set_changes_one_value(sets: list[str], step: str, key: str, value: Any, steps: Steps, tmp_path: Path) -> None:
    file = load(GOOD, steps, tmp_path)
    changed = settings_of(file, sets)
    assert changed[step][key] == value
    plain = settings_of(file, [])
    del changed[step][key]
    plain[step].pop(key, None)
    assert changed == plain  # nothing else moved, and the file's own values are as they were


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("frames.fps", "--set frames.fps: not of the form STEP.KEY=VALUE"),
        ("fps=3", "not of the form STEP.KEY=VALUE"),
        ("frames..fps=3", "not of the form STEP.KEY=VALUE"),
        ("frame.fps=3", "the recipe has no step 'frame'. Did you mean 'frames'? It has: frames, gate, gate.2."),
        ("gate.3.face.score.min=1", "the recipe has no step 'gate.3'. Did you mean 'gate.2'? It has: "),
        ("gate.2=1", "names no key of step 'gate.2'"),
        ("frames.fsp=3", "frames: unknown key 'fsp'. Did you mean 'fps'? Expected one of: every, fps, names."),
        ("gate.faec.score.min=1", "the recipe has 2 steps 'gate' and none has 'faec'. Did you mean 'face'?"),
        (
            "frames.fps=-1",
            "--set frames.fps=-1: recipes.toy.steps[0] (frames).fps: expected a number above 0, found -1.",
        ),
        ("frames.fps.x=1", "fps is a single value, it has no key 'x'"),
        ("frames.names=[a", "not a YAML value: '[a'"),
        (
            "gate.resolution.short_side.mim=512",
            "--set gate.resolution.short_side.mim=512: recipes.toy.steps[1] (gate).resolution.short_side: "
            "unknown key 'mim'. Did you mean 'min'? Expected one of: max, min, mode.",
        ),
    ],
)  # fmt: skip
def test_set_that_fits_nothing_is_refused(text: str, said: str, steps: Steps, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(GOOD, steps, tmp_path).resolve("toy", [text])
    assert said in str(caught.value)


def test_schema_knows_every_step_and_its_settings(steps: Steps) -> None:
    schema = json_schema(steps)
    entries = schema["$defs"]["Recipe"]["properties"]["steps"]["items"]
    assert entries["discriminator"]["propertyName"] == "step"
    frames = schema["$defs"]["FramesStep"]
    assert frames["properties"]["step"]["const"] == "frames"
    assert frames["properties"]["fps"]["exclusiveMinimum"] == 0
    assert frames["additionalProperties"] is False
    assert frames["description"] == "cut videos"
    assert "additionalProperties" in schema["$defs"]["GateStep"]
    assert schema["properties"]["version"]["const"] == 1
    json.dumps(schema)


def test_init_writes_file_and_schema_and_overwrites_only_when_told(steps: Steps, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    written = write_starter(folder, steps)
    assert [path.name for path in written] == [FILE, "pipelines.schema.json"]
    assert written[0].read_text("utf-8") == HEADER + packaged_text()
    assert json.loads(written[1].read_text("utf-8"))["title"]
    written[0].write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        write_starter(folder, steps)
    assert written[0].read_text() == "mine"
    write_starter(folder, steps, force=True)
    assert written[0].read_text("utf-8").startswith(HEADER)


def test_init_into_a_file_is_a_clear_error(steps: Steps, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"exists already|Cannot write"):
        write_starter(tmp_path / "file" / "x", steps)


def any_settings(kinds: list[str]) -> Steps:
    """A registry that takes whatever the packaged file gives to each kind."""

    class Open(Settings):
        model_config = ConfigDict(extra="allow", frozen=True)

    registry: Steps = Registry("step")
    for kind in kinds:
        registry.register(kind, type(f"{kind}Step", (Step,), {"kind": kind, "Settings": Open}))
    return registry


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConfigFile:
    from idtool.models.catalog import catalogue

    monkeypatch.chdir(tmp_path)
    kinds = {step["step"] for recipe in yaml.safe_load(packaged_text())["recipes"].values() for step in recipe["steps"]}
    return load_config(None, any_settings(sorted(kinds)), catalogue())


def test_packaged_file_has_the_profiles_and_the_recipe(packaged: ConfigFile) -> None:
    assert list(packaged.config.profiles) == ["paper", "modern", "open", "offline"]
    assert packaged.config.auto == ["paper", "offline"]
    kinds = " ".join(step.kind for step in packaged.resolve("dmid").steps)
    assert kinds == (
        "ingest animate inpaint frames gate measure gate dedup measure gate identify repair swap pair caption export"
    )


def test_packaged_steps_fit_the_real_settings(packaged: ConfigFile) -> None:
    from idtool.curate.registry import STEPS

    assert len(load_config(None, STEPS).resolve("dmid").steps) == len(packaged.resolve("dmid").steps)


def test_packaged_licences_agree_with_the_catalogue(packaged: ConfigFile) -> None:
    from idtool.models.catalog import catalogue

    for name, profile in packaged.config.profiles.items():
        for role, bound in profile.roles.items():
            for binding in bound:
                weight = catalogue().get(binding.model)
                if weight is None:
                    assert ":" in binding.model
                    continue
                assert binding.commercial == weight.commercial, f"{name} {role} {binding.model}"
                assert binding.revision == f"{weight.archive.package}=={weight.archive.version}"
                assert role in weight.roles


def test_open_profile_binds_only_what_may_be_used_commercially(packaged: ConfigFile) -> None:
    for bound in packaged.profile("open").roles.values():
        assert {binding.commercial for binding in bound} == {"yes"}


def test_offline_profile_binds_only_weights_of_the_catalogue(packaged: ConfigFile) -> None:
    from idtool.models.catalog import catalogue

    offline = packaged.profile("offline").bindings()
    assert {binding.model for bound in offline.values() for binding in bound} == set(catalogue())
    assert all("same_person" in binding.thresholds for binding in offline["identity"])
    assert "aesthetic" not in offline
