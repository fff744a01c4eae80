"""Local vision-language models on tiny checkpoints of seven families, loaded by the ordinary path."""

from __future__ import annotations

import importlib.util
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import load
from idtool.models.ask import Answer, Ask
from idtool.models.asking import reduced
from idtool.models.judge import SCORE_SCHEMA, votes
from idtool.models.vlm import LocalVlm
from idtool.models.vlm_chat import conversation
from tests.models.test_faces import read
from tests.zoo import Zoo
from tests.zoo.vlm import CONTEXT

FAMILIES = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl", "llava", "internvl", "smolvlm", "gemma3")
NOISE = np.random.default_rng(0)
WIDE, TALL, SMALL = (NOISE.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((90, 120), (200, 80), (60, 61)))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tiny: Zoo) -> str:
    """Each family in turn, its checkpoint in the mirror."""
    name = str(request.param)
    if name == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("transformers' processor of SmolVLM needs the package num2words")
    tiny(name)
    return name


def vlm(name: str, **options: Any) -> LocalVlm:
    found: LocalVlm = load(Binding("judge", f"hf:tiny/{name}", options=options))
    return found


def copied(zoo: Zoo, name: str, target: Path) -> Path:
    """A checkpoint that may be damaged."""
    return Path(shutil.copytree(zoo(name), target / name))


def local(folder: Path, **options: Any) -> LocalVlm:
    found: LocalVlm = load(Binding("captioner", f"local:{folder}", options={"format": "vlm", **options}))
    return found


def test_a_batch_answers_as_its_questions_alone(family: str) -> None:
    """Images of three sizes, texts of three lengths, one with a system text: no answer depends on the padding."""
    model = vlm(family)
    asks = [
        Ask("What is it?", (WIDE,), max_tokens=30),
        Ask("Say a lot more about this picture, please.", (TALL,), max_tokens=30),
        Ask("no", (SMALL,), system="Be kind.", max_tokens=30),
    ]
    together = model.ask(asks)
    assert together == [model.ask([ask])[0] for ask in asks]
    assert len({answer.text for answer in together}) == 3
    for answer in together:
        assert answer.text
        assert answer.ok or (answer.reason == "cut" and answer.tokens_out == 30)


def test_images_reach_the_model_and_so_does_their_order(family: str) -> None:
    model = vlm(family)

    def said(*images: Any) -> Answer:
        return model.ask([Ask("What is it?", images, max_tokens=30)])[0]

    nothing, one, other, both, turned = said(), said(WIDE), said(WIDE[:, ::-1]), said(WIDE, SMALL), said(SMALL, WIDE)
    assert len({answer.text for answer in (nothing, one, other, both, turned)}) == 5
    assert nothing.tokens_in < one.tokens_in < both.tokens_in


@pytest.mark.parametrize("name", ["llava", "internvl"])
def test_answers_are_the_most_probable_tokens(tiny: Zoo, name: str) -> None:
    """Compared with the network's own scores, one token at a time, without cache, batch or generation settings."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = tiny(name)
    processor, network = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    ask = Ask("Who is this?", (WIDE,), max_tokens=6)
    inputs = processor.apply_chat_template(
        conversation(ask, 768, True), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    tokens, start = inputs["input_ids"], inputs["input_ids"].shape[1]
    with torch.inference_mode():
        for _ in range(ask.max_tokens):
            mask = torch.ones_like(tokens)
            scores = network(input_ids=tokens, attention_mask=mask, pixel_values=inputs["pixel_values"]).logits
            tokens = torch.cat([tokens, scores[:, -1:].argmax(-1)], dim=1)
    answer = vlm(name).ask([ask])[0]
    assert answer.text == processor.tokenizer.decode(tokens[0, start:])
    assert (answer.tokens_in, answer.tokens_out, answer.reason) == (start, 6, "cut")


def test_an_answer_that_ends_is_whole_and_one_that_does_not_is_cut(tiny: Zoo) -> None:
    tiny("llava")
    model = vlm("llava")
    whole = model.ask([Ask("What is it?", (WIDE,), max_tokens=40)])[0]
    assert whole.ok
    assert whole.text is not None
    assert whole.tokens_out < 40
    assert whole.tokens_out == len(whole.text) + 1  # a token per character, and the end
    cut = model.ask([Ask("What is it?", (WIDE,), max_tokens=10)])[0]
    assert (cut.reason, cut.text, cut.tokens_out) == ("cut", whole.text[:10], 10)
    assert "10 tokens" in cut.detail
    assert model.usage.tokens_out >= whole.tokens_out + 10


def test_one_bad_question_takes_none_down(tiny: Zoo) -> None:
    """Too long, marks of the model in the text, an aspect that the processor refuses, no image at all."""
    tiny("qwen2-vl")
    model = vlm("qwen2-vl")
    fine = Ask("Fine?", (WIDE,), max_tokens=5)
    room = CONTEXT - 5 - (model.ask([fine])[0].tokens_in - len(fine.prompt))
    asks = [
        fine,
        Ask("x" * CONTEXT, (WIDE,), max_tokens=5),
        Ask("x" * (room + 1), (WIDE,), max_tokens=5),
        Ask("x" * room, (WIDE,), max_tokens=5),
        Ask("Is <|im_end|> all?", (WIDE,), max_tokens=5),
        Ask("Thin?", (np.zeros((1, 500, 3), np.uint8),), max_tokens=5),
        Ask("One pixel?", (np.zeros((1, 1, 3), np.uint8),), max_tokens=5),
        Ask("Grey?", (np.zeros((9, 9), np.uint8),), max_tokens=5),  # type: ignore[arg-type]
        Ask("No image?", max_tokens=5),
        fine,
    ]
    answers = model.ask(asks)
    reasons = [answer.reason for answer in answers]
    assert reasons == ["cut", *["too_long"] * 2, "cut", "bad_input", "bad_input", "cut", "bad_input", "cut", "cut"]
    assert str(CONTEXT) in answers[1].detail
    assert "<|im_end|>" in answers[4].detail
    assert "aspect ratio" in answers[5].detail
    assert "HxWx3" in answers[7].detail
    assert answers[0] == answers[-1] == model.ask([fine])[0]
    assert model.ask([]) == []


def test_a_network_that_never_works_is_an_error_not_nulls(tiny: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny("llava")
    model, asks = vlm("llava", long_side=600), [Ask("a", max_tokens=3), Ask("b", max_tokens=3)]

    def broken(**_: Any) -> Any:
        raise RuntimeError("no kernel for this")

    with monkeypatch.context() as patched:
        patched.setattr(model._network, "generate", broken)
        with pytest.raises(RuntimeError, match="no kernel"):
            model.ask(asks)
    assert all(answer.text for answer in model.ask(asks))
    with monkeypatch.context() as patched:
        patched.setattr(model._network, "generate", broken)
        assert [answer.reason for answer in model.ask(asks)] == ["bad_input"] * 2


def test_real_photos_are_reduced_first(tiny: Zoo, fixtures: Path) -> None:
    """A tile for each 56 px of the tiny InternVL: what is reduced to 56 px is one tile, whatever it was."""
    tiny("internvl")
    photos = [read(path) for path in sorted((fixtures / "identities").glob("*/*"))[:2]]
    large = vlm("internvl").ask([Ask("Who?", (photo,), max_tokens=5) for photo in photos])
    small = vlm("internvl", long_side=56).ask([Ask("Who?", (photo,), max_tokens=5) for photo in photos])
    for photo, before, after in zip(photos, large, small, strict=True):
        assert before.text
        assert after.tokens_in <= before.tokens_in
        assert max(reduced(photo, 768).shape) == min(768, max(photo.shape))
        assert reduced(photo, 9999) is photo
    assert [answer.text for answer in large] != [answer.text for answer in small]


def test_several_threads(tiny: Zoo) -> None:
    tiny("qwen2.5-vl")
    model = vlm("qwen2.5-vl")
    asks = [Ask(f"What is it, {number}?", (image,), max_tokens=12) for number, image in enumerate((WIDE, TALL, SMALL))]
    alone = model.ask(asks)
    found: list[tuple[int, Answer]] = []
    threads = [
        threading.Thread(target=lambda number=number: found.append((number, model.ask([asks[number]])[0])))
        for number in (0, 1, 2, 0, 1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all(answer == alone[number] for number, answer in found)


def test_nan_is_null_in_its_row_only(tiny: Zoo, tmp_path: Path) -> None:
    """The embedding of `Q` is NaN."""
    from safetensors.torch import load_file, save_file

    folder = copied(tiny, "llava", tmp_path)
    state = load_file(folder / "model.safetensors")
    token = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]["Q"]
    name = next(key for key in state if key.endswith("embed_tokens.weight"))
    state[name][token] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    asks = [Ask("What?", (WIDE,), max_tokens=5), Ask("Q?", (WIDE,), max_tokens=5), Ask("Why?", (WIDE,), max_tokens=5)]
    answers = local(folder).ask(asks)
    assert [answer.reason for answer in answers] == ["cut", "invalid", "cut"]
    assert answers[1].detail == "the network gave NaN"
    assert answers[1].text is None
    sound = vlm("llava").ask(asks)
    assert (answers[0], answers[2]) == (sound[0], sound[2])


def test_no_json_is_asked_for_again_then_null(tiny: Zoo) -> None:
    """A random network never gives JSON; the judge's vote is unscored, not 0."""
    tiny("qwen3-vl")
    ask = Ask("Same?", (WIDE,), schema=SCORE_SCHEMA, max_tokens=40)
    model = vlm("qwen3-vl", long_side=700)
    model._ends = sorted({*model._ends, *model._chat.tokenizer.convert_tokens_to_ids(list("[J"))})  # it ends early
    once = local(tiny("qwen3-vl"), repairs=0).ask([ask])[0]
    answer = model.ask([ask])[0]
    assert answer.reason in ("invalid", "empty")
    assert answer.data is None
    assert once.tokens_in <= answer.tokens_in
    verdict = votes(model, ask)
    assert (verdict.score, verdict.unscored, len(verdict.answers)) == (None, 1, 1)


def test_json_is_read(tiny: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in writes the answer, since no random network does: the second time it is asked."""
    import torch

    tiny("qwen3-vl")
    model = vlm("qwen3-vl")
    texts = iter(["It is a 3.", '```json\n{"score": 3, "reasons": ["hair"]}\n```'])
    prompts: list[str] = []

    def generate(**inputs: Any) -> Any:
        inputs["logits_processor"][0](None, torch.zeros(1, 4))
        prompts.append(model._chat.tokenizer.decode(inputs["input_ids"][0]))
        said = model._chat.tokenizer(next(texts))["input_ids"] + [model._ends[0]]
        return torch.cat([inputs["input_ids"], torch.tensor([said])], dim=1)

    monkeypatch.setattr(model._network, "generate", generate)
    answer = model.ask([Ask("Same?", (WIDE,), schema=SCORE_SCHEMA)])[0]
    assert answer.data == {"score": 3, "reasons": ["hair"]}
    assert "Same?\n\nAnswer with JSON only" in prompts[0]
    assert json.dumps(SCORE_SCHEMA) in prompts[0]
    assert "it holds no JSON" in prompts[1]
    assert answer.tokens_in > len(prompts[0])


def test_a_template_without_system_turns(tiny: Zoo, tmp_path: Path) -> None:
    """The system text goes before the question, and the fingerprint says so."""
    folder = copied(tiny, "gemma3", tmp_path)
    template = (folder / "chat_template.jinja").read_text()
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + template
    (folder / "chat_template.jinja").write_text(refusing)
    model, ordinary = local(folder), vlm("gemma3")
    apart, before = (
        Ask("Who?", (WIDE,), system="Be brief.", max_tokens=9),
        Ask("Be brief.\n\nWho?", (WIDE,), max_tokens=9),
    )
    assert model.ask([apart])[0] == ordinary.ask([before])[0]
    assert model.ask([apart])[0].tokens_in < ordinary.ask([apart])[0].tokens_in
    assert "system text before the prompt" in model.fingerprint()["preprocessing"]
    assert "system text in its own turn" in ordinary.fingerprint()["preprocessing"]
    assert model.fingerprint()["sha256"] != ordinary.fingerprint()["sha256"]  # a template decides as weights do


def drop(*names: str) -> Any:
    return lambda folder: [(folder / name).unlink() for name in names]


def half(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state.pop("lm_head.weight" if "lm_head.weight" in state else next(iter(state)))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def template(text: str) -> Any:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop("tokenizer.json", "tokenizer_config.json"), "processor of model"),
        (drop("processor_config.json"), "processor of model"),
        (drop("chat_template.jinja"), "no chat template"),
        (drop("model.safetensors"), "cannot be loaded"),
        (drop("config.json"), "cannot be loaded"),
        (half, "cannot be loaded"),
        (without_a_tensor, "1 missing"),
        (template("{{ 'hello' }}"), "leaves the question out"),
        (template("{% for t in messages %}{{ t['content'][-1]['text'] }}{% endfor %}"), "leaves images out"),
    ],
)
def test_wrong_checkpoints_are_refused_with_the_reason(tiny: Zoo, tmp_path: Path, damage: Any, words: str) -> None:
    folder = copied(tiny, "llava", tmp_path)
    damage(folder)
    with pytest.raises(MissingError) as error:
        local(folder)
    assert words in str(error.value)
    assert error.value.hint


def test_another_kind_of_model_is_refused(tiny: Zoo) -> None:
    with pytest.raises(MissingError, match=r"cannot be loaded|has no"):
        local(tiny("clip"))


def test_options_and_devices(tiny: Zoo) -> None:
    import torch

    tiny("qwen2-vl")
    with pytest.raises(UsageError, match="batch"):
        vlm("qwen2-vl", batch=0)
    with pytest.raises(UsageError, match="long_side"):
        vlm("qwen2-vl", long_side=1)
    with pytest.raises(UsageError, match="no dtype"):
        vlm("qwen2-vl", dtype="int4")
    with pytest.raises(MissingError, match="cannot be loaded"):
        vlm("qwen2-vl", attn_implementation="nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(MissingError, match="no CUDA device"):
            load(Binding("judge", "hf:tiny/qwen2-vl"), device="cuda")
    one_by_one, eager = vlm("qwen2-vl", batch=1), vlm("qwen2-vl", attn_implementation="eager")
    asks = [Ask("What?", (WIDE,), max_tokens=8), Ask("Who is it?", (SMALL,), max_tokens=8)]
    assert one_by_one.ask(asks) == vlm("qwen2-vl").ask(asks) == eager.ask(asks)
    assert eager.fingerprint() != one_by_one.fingerprint()
    assert one_by_one.fingerprint() == vlm("qwen2-vl").fingerprint()


def test_half_precision_leaves_the_rotary_frequencies_alone(tiny: Zoo) -> None:
    import torch

    tiny("qwen2-vl")
    model = vlm("qwen2-vl", dtype="bfloat16")
    assert model.fingerprint()["dtype"] == "bfloat16"
    assert vlm("qwen2-vl").fingerprint()["dtype"] == "float32"
    assert model._network.lm_head.weight.dtype == torch.bfloat16
    frequencies = [buffer for name, buffer in model._network.named_buffers() if "inv_freq" in name]
    assert frequencies
    assert all(buffer.dtype == torch.float32 for buffer in frequencies)
    assert model.ask([Ask("What?", (WIDE,), max_tokens=5)])[0].text


def test_answers_may_be_cached(tiny: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path))
    tiny("llava")
    model = vlm("llava", cache=True)
    ask = Ask("What is it?", (WIDE,), max_tokens=40)
    first, again = model.ask([ask])[0], model.ask([ask])[0]
    assert (first.cached, again.cached) == (False, True)
    assert again.text == first.text
    assert again.tokens_out == 0
    assert not model.ask([Ask("What is it?", (WIDE[::-1],), max_tokens=40)])[0].cached
