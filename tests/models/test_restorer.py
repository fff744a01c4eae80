"""CodeFormer: the published widths, a tiny one end to end, and checkpoints that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import load
from tests.models.test_swapper import face, person
from tests.zoo import Zoo
from tests.zoo.restorer import FILE, SIDE

PUBLISHED = 94_112_707
"""Numbers in the published network."""


def bound(model: str = "hf:tiny/codeformer", **options: Any) -> Binding:
    return Binding("restorer", model, options={"format": "codeformer", **options})


@pytest.fixture
def restorer(tiny: Zoo) -> Any:
    tiny("codeformer")
    return load(bound(file=FILE))


def test_the_published_network_by_its_names(zoo: Zoo) -> None:
    import torch

    from idtool.models.networks.codeformer import CodeFormer, Widths

    with torch.device("meta"):
        network = CodeFormer(Widths())
    state = network.state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == PUBLISHED and Widths().side == 512
    assert Widths.of(state) == Widths(connected=("128", "256", "32", "64"))
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    # As in the public file.
    assert shapes["encoder.blocks.24.weight"] == (256, 512, 3, 3)
    assert shapes["encoder.blocks.17.q.weight"] == (512, 512, 1, 1)
    assert shapes["encoder.blocks.15.conv.weight"] == (256, 256, 3, 3)
    assert shapes["generator.blocks.24.weight"] == (3, 64, 3, 3)
    assert shapes["generator.blocks.9.conv_out.weight"] == (256, 512, 1, 1)
    assert shapes["ft_layers.8.self_attn.in_proj_weight"] == (1536, 512)
    assert shapes["idx_pred_layer.1.weight"] == (1024, 512) and "idx_pred_layer.1.bias" not in shapes
    assert shapes["fuse_convs_dict.256.scale.2.weight"] == (128, 128, 3, 3)
    assert shapes["fuse_convs_dict.32.encode_enc.conv_out.weight"] == (256, 512, 1, 1)


def test_fidelity_brings_in_what_was_seen(restorer: Any) -> None:
    assert restorer.side == SIDE
    random = np.random.default_rng(0)
    crops = [random.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(3)]
    clean, half, close = (restorer.restore(crops, fidelity) for fidelity in (0.0, 0.5, 1.0))
    assert all(image.shape == (SIDE, SIDE, 3) and image.dtype == np.uint8 for image in clean)
    assert not (clean[0] == close[0]).all() and not (half[0] == close[0]).all()
    alone = restorer.restore(crops[:1], 0.5)[0]
    assert np.abs(alone.astype(int) - half[0]).max() <= 1
    assert restorer.restore([]) == []
    with pytest.raises(ValueError, match="fidelity is between 0 and 1"):
        restorer.restore(crops, 1.5)
    with pytest.raises(ValueError, match="uint8 crops of 128x128x3"):
        restorer.restore([np.zeros((64, 64, 3), np.uint8)])


def test_only_the_face_is_touched(restorer: Any) -> None:
    image = person(1)
    [done] = restorer([image], [face()], 0.7)
    changed = np.argwhere((done != image).any(axis=2))
    assert done.shape == image.shape and len(changed)
    # The frame is 512 px where the eyes are 126 apart; here they are 46.
    low, high = changed.min(axis=0), changed.max(axis=0)
    assert (high - low).max() <= 512 * 46 / 126 + 2 and (low > 0).all()
    assert (restorer([image], [face()], 0.7)[0] == done).all()


def test_fingerprint_names_file_and_settings(restorer: Any) -> None:
    facts = restorer.fingerprint()
    assert len(facts["sha256"]) == 64 and facts["dtype"] == "float32" and "128 px" in facts["preprocessing"]


def test_half_precision_is_close(restorer: Any) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    [rough] = load(bound(file=FILE, dtype="bfloat16")).restore([crop], 1.0)
    [close] = restorer.restore([crop], 1.0)
    # Of this crop the same codes are chosen; of another, rounding may choose another one.
    assert np.abs(close.astype(int) - rough).mean() < 0.06 * close.std()


def test_wrong_checkpoints(tiny: Zoo, tmp_path: Path) -> None:
    import torch

    state = torch.load(tiny("codeformer") / FILE, weights_only=True)["params_ema"]

    def refusal(changed: dict[str, Any]) -> str:
        torch.save(changed, tmp_path / "x.pth")
        with pytest.raises(MissingError) as error:
            load(bound(f"local:{tmp_path / 'x.pth'}"))
        return error.value.message

    assert "no 'quantize.embedding.weight'" in refusal({"weight": torch.zeros(1)})
    without = {name: tensor for name, tensor in state.items() if name != "ft_layers.1.norm1.bias"}
    assert "1 missing (ft_layers.1.norm1.bias)" in refusal({"params_ema": without})
    assert "1 unexpected (extra)" in refusal({"params_ema": {**state, "extra": torch.zeros(1)}})
    with pytest.raises(MissingError, match="is a folder"):
        load(bound())
    with pytest.raises(UsageError, match="has to divide 32"):
        load(bound(file=FILE, heads=5))
    with pytest.raises(UsageError, match="edge"):
        load(bound(file=FILE, edge=0.0))
