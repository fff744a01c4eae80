"""Our part of the vLLM wrapper. NOT a test of vLLM, which cannot be installed here: a stand-in takes its place, with
the names and fields that its documentation gives. What is proven is how questions become messages and outputs answers.
"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idtool.engine.step import Binding
from idtool.errors import MissingError
from idtool.models import load
from idtool.models.ask import Ask
from idtool.models.judge import SCORE_SCHEMA
from idtool.models.sources import Weights
from idtool.models.vllm import VllmModel

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int = 16
    structured_outputs: Any = None


@dataclass
class StructuredOutputsParams:
    json: Mapping[str, Any] | None = None


@dataclass
class Engine:
    """Says a list of texts, one after another; refuses prompts that say `long`."""

    settings: dict[str, Any]
    texts: list[str] = field(default_factory=lambda: ["hello"])
    calls: list[tuple[list[Any], list[Any]]] = field(default_factory=list)

    def chat(self, messages: list[Any], *, sampling_params: list[Any], use_tqdm: bool) -> list[Any]:
        assert use_tqdm is False
        self.calls.append((messages, sampling_params))
        if any("long" in turns[-1]["content"][-1]["text"] for turns in messages):
            raise ValueError("The decoder prompt (length 9000) is longer than the maximum context length of 4096")
        outputs = []
        for settings in sampling_params:
            text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
            kept = text[: settings.max_tokens]
            finish = "length" if len(kept) < len(text) else "stop"
            first = SimpleNamespace(text=kept, token_ids=list(range(len(kept))), finish_reason=finish)
            outputs.append(SimpleNamespace(prompt_token_ids=[1, 2, 3], outputs=[first]))
        return outputs


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VllmModel:
    package, inner = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    package.LLM = lambda **settings: Engine(settings)  # type: ignore[attr-defined]
    package.SamplingParams = SamplingParams  # type: ignore[attr-defined]
    inner.StructuredOutputsParams = StructuredOutputsParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", inner)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return VllmModel(Weights("hf:tiny/any", tmp_path), device="cuda")


def test_questions_become_messages_and_settings(model: VllmModel) -> None:
    model._engine.texts = ["a man", '{"score": 3, "reasons": []}']
    free, judged = model.ask(
        [Ask("What?", (PICTURE,), system="Be brief.", max_tokens=50), Ask("Same?", schema=SCORE_SCHEMA)]
    )
    assert (free.text, free.tokens_in, free.tokens_out, free.ok) == ("a man", 3, 5, True)
    assert judged.data == {"score": 3, "reasons": []}
    [(messages, settings)] = model._engine.calls
    assert messages[0][0] == {"role": "system", "content": "Be brief."}
    uri = messages[0][1]["content"][0]["image_url"]["url"]
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    np.testing.assert_array_equal(np.asarray(picture), PICTURE)
    assert messages[1][0]["content"][-1] == {"type": "text", "text": "Same?"}
    assert [(one.temperature, one.max_tokens) for one in settings] == [(0.0, 50), (0.0, 512)]
    assert settings[0].structured_outputs is None
    assert settings[1].structured_outputs == StructuredOutputsParams(json=dict(SCORE_SCHEMA))
    engine = model._engine.settings
    assert (engine["trust_remote_code"], engine["dtype"], engine["limit_mm_per_prompt"]) == (
        False,
        "bfloat16",
        {"image": 4},
    )


def test_cut_empty_and_too_long(model: VllmModel) -> None:
    cut, long, short = model.ask([Ask("a", max_tokens=2), Ask("long"), Ask("b")])
    assert (cut.reason, cut.text) == ("cut", "he")
    assert (long.reason, long.text) == ("too_long", None)
    assert short.text == "hello"
    assert model.ask([]) == []


def test_devices_and_absence(tmp_path: Path) -> None:
    for device in ("cpu", "cuda:1", "mps"):
        with pytest.raises(MissingError, match="first visible CUDA device"):
            VllmModel(Weights("hf:tiny/any", tmp_path), device=device)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(MissingError, match="packages that are not installed: vllm"):
            load(Binding("judge", f"local:{tmp_path}", options={"format": "vllm"}), device="cuda")
