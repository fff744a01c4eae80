"""The SD runtime's mathematics: neutral is stock, weights, boxes, and what they do where they meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from idtool.errors import MissingError  # noqa: E402
from idtool.generate.sd import checkpoint, gating  # noqa: E402
from idtool.generate.sd.attention import Conditions, Decoupled, install, rank_of  # noqa: E402
from idtool.generate.sd.fuse import Fuse  # noqa: E402
from idtool.generate.sd.gating import Gate  # noqa: E402
from tests.zoo import sd_methods  # noqa: E402
from tests.zoo.weights import drawn  # noqa: E402

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def stock() -> Any:
    """A UNet, what goes into it, and what comes out."""
    with drawn(5):
        unet = sd_methods.unet().eval()
        inputs = torch.randn(2, 4, 8, 16), torch.tensor([7]), torch.randn(2, 77, sd_methods.WIDTH)
        with torch.inference_mode():
            return unet, inputs, unet(*inputs).sample


def test_neutral_is_stock(stock: Any) -> None:
    unet, inputs, before = stock
    conditions = Conditions()
    with drawn(6):
        processors = install(unet, conditions, 4)
        processors.load_state_dict(sd_methods.loud(processors))
        tokens = torch.randn(2, 8, sd_methods.WIDTH)
    names = set(processors.state_dict())
    assert {"0.to_q_lora.down.weight", "0.to_out_lora.up.weight", "1.to_k_ip.weight", "1.to_v_ip.weight"} <= names
    assert "0.to_k_ip.weight" not in names  # self-attention looks at nobody
    assert rank_of(processors.state_dict()) == 4 and rank_of({"1.to_k_ip.weight": tokens}) is None
    with torch.inference_mode():
        assert torch.equal(unet(*inputs).sample, before)
        with conditions.of(tokens, scale=0.0, lora_scale=0.0, people=2):
            assert torch.equal(unet(*inputs).sample, before)
        with conditions.of(tokens, scale=0.0, lora_scale=1e-30, people=2):  # our own attention, nothing added
            assert torch.allclose(unet(*inputs).sample, before, atol=1e-5)
        with conditions.of(tokens, scale=1.0, lora_scale=0.0, people=2):
            seen = unet(*inputs).sample
            assert (seen - before).abs().max() > 1e-3
        gate = Gate([[LEFT, RIGHT]] * 2, (8, 16), until=1, strength=2.0)
        for together in (False, True):
            rule = Gate(gate.boxes, gate.grid, 1, 2.0, 0.3 * together, together)
            with conditions.of(tokens, scale=1.0, lora_scale=1.0, people=2, gate=rule):
                both = unet(*inputs).sample
                assert torch.isfinite(both).all()
                # Rows do not know of each other.
                conditions.tokens, conditions.gate = (
                    tokens[1:],
                    Gate(gate.boxes[1:], (8, 16), 1, 2.0, rule.threshold, together),
                )
                alone = unet(inputs[0][1:], inputs[1], inputs[2][1:]).sample
                assert torch.allclose(alone, both[1:], atol=1e-5)
        with conditions.of(tokens[:1], people=2), pytest.raises(ValueError, match="identity tokens of 1 rows for 2"):
            unet(*inputs)
        assert torch.equal(unet(*inputs).sample, before)  # and it is over afterwards
    assert isinstance(next(iter(unet.attn_processors.values())), Decoupled)


def test_weights_run_from_nought_to_one() -> None:
    with drawn():
        scores = torch.randn(3, 2, 12, 4) * 5
    weight = gating.activation(scores)
    assert weight.shape == (3, 12)
    assert torch.equal(weight.amin(dim=1), torch.zeros(3)) and torch.allclose(weight.amax(dim=1), torch.ones(3))
    total = scores.sum(dim=(1, 3))
    assert torch.equal(weight.argsort(dim=1), total.argsort(dim=1))
    flat = torch.cat([scores[:1], torch.full((1, 2, 12, 4), 0.7)])
    assert torch.equal(gating.activation(flat)[1], torch.zeros(12))  # no NaN where nothing stands out
    assert torch.isfinite(gating.activation(torch.zeros(1, 1, 1, 4))).all()
    mask = torch.arange(12)[None] < 5
    laid = gating.placed(weight[:1], mask, 2.0)
    assert torch.equal(laid[0, :5], weight[0, :5] + 2) and torch.equal(laid[0, 5:], weight[0, 5:] / 3)


def test_boxes_at_every_level() -> None:
    # 64 x 128 px: latents of 8 x 16, then 4 x 8, 2 x 4, 1 x 2.
    assert [gating.grid_of(n, 8, 16) for n in (128, 32, 8, 2)] == [(8, 16), (4, 8), (2, 4), (1, 2)]
    assert gating.grid_of(15, 9, 17) == (3, 5)  # odd sides are rounded up: 5 x 9, 3 x 5
    with pytest.raises(ValueError, match="no level"):
        gating.grid_of(100, 8, 16)
    for people in (1, 2, 3):
        for h, w in ((8, 16), (4, 8), (96, 96), (12, 48)):
            masks = gating.inside([gating.slices(people)], people, h, w)
            if w >= people:
                assert torch.equal(masks.sum(dim=1), torch.ones(1, h * w))  # strips tile the frame
    mask = gating.inside([[(0.25, 0.5, 0.75, 1.0)]], 1, 8, 16).view(8, 16)
    assert mask[4:, 4:12].all() and int(mask.sum()) == 4 * 8
    assert int(gating.inside([[(0.9, 0.9, 0.95, 0.95)]], 1, 4, 4).sum()) == 1  # a small box keeps a place
    assert not gating.inside([None], 2, 4, 4).any()
    edge = float(torch.tensor(0.7, dtype=torch.float32))  # as tables of requests hold it: 0.69999999
    both = gating.inside([[(0.0, 0.0, edge, 1.0), (edge, 0.0, 1.0, 1.0)]], 2, 1, 160)
    assert both.sum(dim=-1).tolist() == [[112, 48]]


def heads(*shape: int) -> Any:
    return torch.randn(1, 2, *shape)


@pytest.mark.parametrize("together", [False, True])
def test_people_keep_to_their_boxes(together: bool) -> None:
    with drawn(1):
        query, key, value = heads(32, 8), heads(8, 8), heads(8, 8)
        other_key, other_value = heads(4, 8), heads(4, 8)
    gate = Gate([[LEFT, RIGHT]], (4, 8), until=0, strength=2.0, together=together)
    out = gating.gated(query, key, value, 2, gate, 5).view(1, 2, 4, 8, 8)
    swapped_value = torch.cat([value[:, :, :4], other_value], dim=2)
    again = gating.gated(query, key, swapped_value, 2, gate, 5).view(1, 2, 4, 8, 8)
    assert torch.equal(out[..., :4, :], again[..., :4, :])  # the left half does not know who stands on the right
    assert (out[..., 4:, :] - again[..., 4:, :]).abs().max() > 1e-3
    # In the early steps boxes push: what is inside grows by the strength.
    alone = Gate([[LEFT]], (4, 8), until=3, strength=2.0, together=together)
    late, early = (gating.gated(query, other_key, other_value, 1, alone, step) for step in (3, 2))
    plain = torch.nn.functional.scaled_dot_product_attention(query, other_key, other_value).view(1, 2, 4, 8, 8)
    late, early = late.view_as(plain), early.view_as(plain)
    assert torch.allclose(early[..., :4, :], late[..., :4, :] + 2 * plain[..., :4, :], atol=1e-5)
    assert torch.allclose(early[..., 4:, :], late[..., 4:, :] / 3, atol=1e-6)


@pytest.mark.parametrize("together", [False, True])
def test_boxes_that_overlap_give_numbers(together: bool) -> None:
    with drawn(2):
        query, key, value = heads(32, 8), heads(12, 8), heads(12, 8)
    over = [(0.0, 0.0, 0.75, 1.0), (0.25, 0.0, 1.0, 1.0), (0.25, 0.0, 0.75, 0.5)]
    gate = Gate([over], (4, 8), until=1, strength=4.0, threshold=0.3, together=together)
    for step in (0, 1):
        assert torch.isfinite(gating.gated(query, key, value, 3, gate, step)).all()
    free = gating.allowed(gating.inside([over], 3, 4, 8))
    assert free.any(dim=1).all()
    assert free[0, :, 0].tolist() == [True, False, False] and free[0, :, 4].tolist() == [True, True, True]
    nobody = gating.allowed(gating.inside([[(0.0, 0.0, 0.5, 0.5)] * 2], 2, 4, 8))
    assert nobody[0, :, 31].all()  # outside of all boxes everybody may be looked at
    with pytest.raises(ValueError, match="1 rows of boxes for a batch of 2"):
        gating.gated(query.repeat(2, 1, 1, 1), key, value, 3, gate, 0)


def test_equation_one_by_hand() -> None:
    """One person, nowhere placed: z + w softmax(Q K / sqrt d) V."""
    with drawn(3):
        query, key, value = heads(16, 8), heads(4, 8), heads(4, 8)
    gate = Gate([None], (4, 4), until=9, strength=2.0)
    scores = query @ key.transpose(-2, -1) / 8**0.5
    total = scores.sum(dim=(1, 3))[0]
    weight = (total - total.min()) / (total.max() - total.min())
    wanted = weight[None, None, :, None] * (scores.softmax(-1) @ value)
    assert torch.allclose(gating.gated(query, key, value, 1, gate, 0), wanted, atol=1e-6)


def test_released_rule_by_hand() -> None:
    """Two people in boxes that do not meet, place by place, as the released code has it."""
    with drawn(7):
        query, key, value = heads(32, 8), heads(8, 8), heads(8, 8)
    boxes = [(0.0, 0.0, 0.5, 0.5), (0.5, 0.25, 1.0, 1.0)]
    gate = Gate([boxes], (4, 8), until=3, strength=4.0, threshold=0.3, together=True)
    scores = query @ key.transpose(-2, -1) / 8**0.5
    total = scores.sum(dim=(1, 3))[0]
    weight = (total - total.min()) / (total.max() - total.min())
    weight[weight < 0.3] = 0
    for step, beta in ((0, 4.0), (3, 0.0)):
        found = gating.gated(query, key, value, 2, gate, step)
        for place in range(32):
            y, x = divmod(place, 8)
            owner = 0 if y < 2 and x < 4 else 1 if y >= 1 and x >= 4 else None
            tokens = slice(0, 8) if owner is None else slice(owner * 4, owner * 4 + 4)
            gain = weight[place] / (beta + 1) if owner is None else weight[place] + beta
            shares = scores[0, :, place, tokens].softmax(-1)
            wanted = gain * torch.einsum("ht,htd->hd", shares, value[0, :, tokens])
            assert torch.allclose(found[0, :, place], wanted, atol=1e-5)


def test_features_are_fused_where_the_prompt_says() -> None:
    with drawn(4):
        fuse = Fuse(8)
        text, features = torch.randn(2, 6, 8), [torch.randn(2, 8), torch.randn(1, 8)]
    mixed = fuse.into(text, [[1, 4], []], features)
    assert torch.equal(mixed[1], text[1]) and torch.equal(mixed[0, [0, 2, 3, 5]], text[0, [0, 2, 3, 5]])
    assert torch.allclose(mixed[0, 4], fuse(text[0, 4], features[0][1]))
    names = {"mlp1.layernorm.weight", "mlp1.fc1.weight", "mlp2.fc2.bias", "layer_norm.bias"}
    assert names <= set(fuse.state_dict())


def test_sections_of_a_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    one, two = {"w": torch.ones(2)}, {"a.b": torch.zeros(1)}
    torch.save({"one": one, "two": two}, tmp_path / "nested.bin")
    save_file({"one.w": torch.ones(2), "two.a.b": torch.zeros(1)}, tmp_path / "flat.safetensors")
    for name in ("nested.bin", "flat.safetensors"):
        found = checkpoint.sections(tmp_path / name, ("one", "two"), name)
        assert set(found) == {"one", "two"} and torch.equal(found["two"]["a.b"], torch.zeros(1))
    with pytest.raises(MissingError, match="misses three and has two"):
        checkpoint.sections(tmp_path / "nested.bin", ("one", "three"), "It")
    torch.save({"one": one, "epoch": 3}, tmp_path / "more.bin")
    with pytest.raises(MissingError, match="epoch, which is no tensor"):
        checkpoint.sections(tmp_path / "more.bin", ("one",), "It")
    (tmp_path / "half.bin").write_bytes((tmp_path / "nested.bin").read_bytes()[:200])
    with pytest.raises(MissingError, match="cannot be loaded"):
        checkpoint.sections(tmp_path / "half.bin", ("one",), "It")
