"""Suites as data: the packaged ones, and what a mistake in a file is answered with."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from idtool import benchmarks
from idtool.errors import UsageError
from idtool.evaluate.metrics import METRICS
from idtool.evaluate.suite import describe, load_suite, suite_hash, suite_names

PACKAGED = suite_names()
SMALL = """\
name: mine
summary: a test
prompts: [a person]
metrics: [facesim, expr]
primary: {identity: facesim, prompt: expr}
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text, "utf-8")
    return str(path)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(UsageError) as error:
        load_suite(written(tmp_path, text))
    return str(error.value)


def test_the_suites_of_the_papers_are_there():
    assert set(PACKAGED) == {
        "charis", "consistentid", "dmid-id", "dynamicid-multi", "dynamicid-single", "idglow-age", "idglow-fusion",
        "smoke",
    }  # fmt: skip


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_suite_loads_says_what_it_is_and_survives_being_written(name, tmp_path):
    suite = load_suite(name)
    told = describe(suite)
    assert told["name"] == name
    assert told["paper"] or name == "smoke"
    assert told["limits"]
    assert "#" in benchmarks.text(name)
    again = load_suite(written(tmp_path, suite.to_yaml()))
    assert again == suite
    assert suite_hash(again) == suite_hash(suite)


@pytest.mark.parametrize("name", PACKAGED)
def test_metrics_of_packaged_suites_exist_and_primaries_are_of_samples(name):
    suite = load_suite(name)
    assert set(suite.metrics) <= set(METRICS)
    assert {METRICS.get(family).per for family in suite.primary.model_dump().values()} == {"sample"}


@pytest.fixture(scope="module")
def clip_words() -> Callable[[str], int]:
    """How many tokens CLIP makes of a text, both ends included: its vocabulary without PyTorch, which takes long."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra `models`")
    found = importlib.util.find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs the extra `models`")
    vocabulary = Path(found.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(vocabulary.read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [(left, right) for left, right in map(str.split, lines)]
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    model = tokenizers.models.BPE({piece: k for k, piece in enumerate(pieces)}, merges, end_of_word_suffix="</w>")
    tokenizer = tokenizers.Tokenizer(model)
    words = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = tokenizers.pre_tokenizers.Split(words, behavior="removed", invert=True)
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    return lambda text: len(tokenizer.encode(text.lower()).ids) + 2


def test_the_clip_tokenizer_of_this_test_is_clips(clip_words):
    # As open_clip's own tokenizer counts.
    assert clip_words("a person with a happy expression in a side view, wearing headphones") == 13 + 2
    assert clip_words("photographer") == 3
    assert clip_words("a watercolour of xylographers, 1987!") == 14


@pytest.mark.parametrize("name", PACKAGED)
def test_prompts_fit_into_what_clip_reads(name, clip_words):
    suite = load_suite(name)
    longest = {key: max(words.values(), key=clip_words) for key, words in suite.factors.items()}
    for prompt in suite.prompts:
        text = (prompt.template or suite.template).replace("{prompt}", prompt.text)
        for key, words in longest.items():
            for gap in (f"{{{key}}}", f"{{{key}_1}}", f"{{{key}_2}}"):
                text = text.replace(gap, words)
        assert clip_words(text) <= 77, text


def test_counts_are_those_of_the_papers():
    dmid, single, multi = (load_suite(name) for name in ("dmid-id", "dynamicid-single", "dynamicid-multi"))
    assert describe(dmid)["identities"]["per_cell"] == 42
    assert dmid.requests() == 504
    for suite in (single, multi):
        assert len(suite.prompts) == 20
        assert [len(levels) for levels in suite.factors.values()] == [7, 4]
    assert single.model_copy(update={"draw": type(single.draw)()}).scenes(1) == 560
    assert single.requests() == 500 * 20 * 4
    assert multi.requests() == 250 * 20 * 4
    assert len(load_suite("consistentid").prompts) == 36
    fusion = load_suite("idglow-fusion")
    assert fusion.group_sizes(250) == [2, 3] * 50
    assert fusion.requests() == 100 * len(fusion.prompts)
    assert load_suite("smoke").requests() is None
    assert load_suite("smoke").requests(5) == 60


def test_the_hash_is_of_the_requests_alone(tmp_path):
    suite = load_suite(written(tmp_path, SMALL))
    more = load_suite(written(tmp_path, SMALL.replace("[facesim, expr]", "[facesim, expr, pose]") + "limits: [none]\n"))
    where = load_suite(written(tmp_path, f"{SMALL}identities: {{source: elsewhere}}\n"))
    other = load_suite(written(tmp_path, SMALL.replace("a person", "a man")))
    assert suite_hash(suite) == suite_hash(more) == suite_hash(where)
    assert suite_hash(suite) != suite_hash(other)
    assert suite_hash(suite) != suite_hash(suite.with_count(3))


def test_an_unknown_suite_is_told_with_the_nearest_and_a_file_never_takes_a_name(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="Did you mean 'smoke'"):
        load_suite("smoek")
    monkeypatch.chdir(tmp_path)
    Path("smoke").write_text("name: other\n", "utf-8")
    assert load_suite("smoke").name == "smoke"
    with pytest.raises(UsageError, match="Cannot read absent"):
        load_suite("absent.yaml")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("promts: [x]", ":6: unknown key 'promts'. Did you mean 'prompts'?"),
        ("subjects: face", ":6: subjects: expected 'faces' or 'any', found 'face'. Did you mean 'faces'?"),
        ("draw: {kind: sample, m: 3}", ":6: draw: unknown key 'm'"),
        ("draw: sample", ":6: draw: a sample says how many"),
        ("draw: {kind: sample, n: 2}", ":6: draw.n: there are only 1 combinations"),
        ("identities: {count: 5, cells: {age: [old, young]}}", "5 people cannot be spread evenly over 2 cells"),
        ("identities: {cells: {age: {old: {labels: [Young]}, young: {}}}}", "'young' stands for two values"),
        ("seeds: [1, 1]", ":6: seeds: a seed is given twice"),
        ("groups: [1, 2]", ":6: groups: sizes from 1 to people (1)"),
        ("captions: {same: [age]}", "give either prompts, or captions"),
        ("template: a photo", ":6: template: the prompt belongs into a template once"),
        ("template: '{prompt} {agee}'", "unknown placeholder {agee}. Did you mean 'age'?"),
        ("template: '{prompt} {age'", "a '{' without its other half"),
        ("template: '{prompt} {class_2}'", "{class_2} is about a person that some images do not have"),
        ("factors: {light: [dim, bright]}", "the factor 'light' is not said: {light} must be there"),
        ("seeds: [0]\nseeds: [1]", ":7: seeds: given twice, first in line 6"),
        ("size: {width: 512}", ":6: size: 'height' is missing"),
    ],
)
def test_a_mistake_is_told_with_its_line(change, expected, tmp_path):
    assert expected in refused(tmp_path, f"{SMALL}{change}\n")


def test_further_mistakes_of_prompts(tmp_path):
    twice = SMALL.replace("[a person]", "[a person, a person]")
    assert "mine.yaml:3: prompts[1]: the same prompt as number 1" in refused(tmp_path, twice)
    pair = f"{SMALL.replace('a person', chr(34) + 'two {class}' + chr(34))}people: 2\n"
    assert "prompts[0].text: {class} does not say whose" in refused(tmp_path, pair)
    targets = SMALL.replace("[a person]", "[{text: a person, targets: {expression: [happy, sad]}}]")
    assert "2 values for 1 people" in refused(tmp_path, targets)
    primary = SMALL.replace("prompt: expr", "prompt: exprr")
    assert ":5: primary.prompt: 'exprr' is none of the metrics. Did you mean 'expr'?" in refused(tmp_path, primary)
    assert "a suite is a file of keys" in refused(tmp_path, "- a\n- b\n")
    assert ":2:" in refused(tmp_path, "name: mine\n  summary: x\n")
