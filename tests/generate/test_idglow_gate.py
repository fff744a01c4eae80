"""IdGlow's schedules by the paper, and its gate on one attention layer."""

from __future__ import annotations

from typing import Any

import pytest

from idtool.errors import UsageError
from idtool.generate.idglow import IdGlowSettings
from idtool.generate.idglow_gate import GatedAttention, State, anneal, gate, omega, reverse
from idtool.generate.method import with_changes
from tests.zoo import idglow as tiny_idglow

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")


def test_schedules_are_the_papers() -> None:
    points = (0.0, 0.3, 0.6, 1.0)
    assert [anneal(t, 0.4) for t in points] == pytest.approx([0, 0, 1 / 3, 1])
    assert [anneal(t, 0.0) for t in points] == pytest.approx(points)
    assert [gate(t) for t in points] == [0, 1, 1, 0]
    assert [gate(t) for t in (0.299, 0.601)] == [0, 0]
    assert [reverse(t, 0.4) for t in points] == pytest.approx([1, 0.5, 0, 0])
    assert [omega("constant", 0.4)(t) for t in points] == [1, 1, 1, 1]
    assert [omega("gate", 0.4, (0.0, 0.3))(t) for t in points] == [1, 1, 0, 0]
    assert omega("anneal", 0.5)(0.75) == omega("reverse", 0.5)(0.25) == 0.5
    with pytest.raises(ValueError, match="window is two shares"):
        IdGlowSettings(window=(0.6, 0.3))
    with pytest.raises(UsageError, match="tau"):
        with_changes(IdGlowSettings(), {"tau": 1.0})


WORDS, TARGET, REFERENCE = 5, 6, 4


class Layer:
    """One attention layer of the tiny transformer with tokens for it."""

    def __init__(self, references: int = REFERENCE) -> None:
        with tiny_idglow.drawn(), torch.no_grad():
            self.attn = tiny_idglow.transformer().transformer_blocks[0].attn
            self.text = torch.randn(2, WORDS, tiny_idglow.WIDTH)
            self.image = torch.randn(2, TARGET + references, tiny_idglow.WIDTH)
            angles = torch.randn(TARGET + references, 8), torch.randn(WORDS, 8)
            self.turns = tuple(torch.polar(torch.ones_like(angle), angle) for angle in angles)
        self.stock = self.attn.processor

    def __call__(self, strength: float | None, *, image: Any = None, turns: Any = None, mask: Any = None) -> Any:
        """Outputs for image and text; None: of the stock processor."""
        processor = self.stock if strength is None else GatedAttention(self.stock, State(strength, TARGET))
        with torch.inference_mode():
            return processor(
                self.attn,
                self.image if image is None else image,
                self.text,
                encoder_hidden_states_mask=mask,
                image_rotary_emb=turns or self.turns,
            )


def test_gate_1_is_the_stock_layer_bit_for_bit() -> None:
    layer = Layer()
    assert all(torch.equal(a, b) for a, b in zip(layer(1.0), layer(None), strict=True))
    nearly = layer(1 - 1e-7)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(nearly, layer(None), strict=True))


def test_gate_0_is_the_layer_without_references() -> None:
    layer = Layer()
    image, text = layer(0.0)
    alone = layer(None, image=layer.image[:, :TARGET], turns=(layer.turns[0][:TARGET], layer.turns[1]))
    assert torch.allclose(image[:, :TARGET], alone[0], atol=1e-6)
    assert torch.allclose(text, alone[1], atol=1e-6)
    # Whatever the references are, nothing of them arrives; what they take in themselves is as ever.
    others = layer.image.clone()
    others[:, TARGET:] = 100
    again = layer(0.0, image=others)
    assert torch.equal(again[0][:, :TARGET], image[:, :TARGET]) and torch.equal(again[1], text)
    assert torch.allclose(image[:, TARGET:], layer(None)[0][:, TARGET:], atol=1e-6)


def test_between_a_reference_counts_so_many_times() -> None:
    """Every reference twice at gate 1/2 is every reference once; and the softmax written out."""
    layer, half = Layer(), 0.5
    twice = torch.cat([layer.image, layer.image[:, TARGET:]], dim=1)
    turns = (torch.cat([layer.turns[0], layer.turns[0][TARGET:]]), layer.turns[1])
    image, text = layer(half, image=twice, turns=turns)
    once = layer(None)
    assert torch.allclose(image[:, :TARGET], once[0][:, :TARGET], atol=1e-5)
    assert torch.allclose(text, once[1], atol=1e-5)
    assert not torch.allclose(layer(half)[0][:, :TARGET], once[0][:, :TARGET], atol=1e-3)


@pytest.mark.parametrize("strength", [0.0, 0.3])
def test_padded_words_stay_unseen(strength: float) -> None:
    layer = Layer()
    mask = torch.ones(2, WORDS, dtype=torch.bool)
    mask[0, 3:] = False
    image, text = layer(strength, mask=mask)
    layer.text[0, 3:] = 7
    assert torch.equal(layer(strength, mask=mask)[0], image)
    assert not torch.equal(layer(strength)[0], image)
    assert torch.isfinite(text).all()
