"""What an accelerator must not change: methods and measures on CUDA against the same on the CPU. Tiny random
checkpoints; skipped where there is no CUDA device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idtool.engine.operator import Context
from idtool.generate import methods
from tests.evaluate import tiny_networks
from tests.generate import flux_runs
from tests.generate.made import configuration
from tests.zoo import Zoo

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
KINDS = ("ominicontrol", "dmid", "instruct-identity", "regional", "dsd")


@pytest.fixture(autouse=True)
def exact() -> None:
    """Products of float32 as the CPU makes them."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def method(config: Path, folder: Path, device: str, **sets: object) -> object:
    file = configuration(config)
    cls, spec = methods.resolve(file, "mine", sets)
    made = cls(spec, file.profile("offline").bindings())
    made.load(Context(str(folder), device=device))
    return made


def asked(kind: str, made: object) -> object:
    """A request that the method takes."""
    if kind == "regional":
        regions = [{"prompt": "a man", "box": [0, 0, 0.5, 1]}, {"prompt": "a woman", "box": [0.5, 0, 1, 1]}]
        return flux_runs.request(made, regions=regions)  # type: ignore[arg-type]
    return flux_runs.request(made, flux_runs.photo())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_flux_methods_make_the_same_latents(kind: str, tiny: Zoo, tmp_path: Path) -> None:
    config = flux_runs.config_file(tmp_path, tiny, kind)
    found = []
    for device in ("cpu", "cuda"):
        made = method(config, tmp_path, device, dtype="float32")
        latents = flux_runs.latents(made, asked(kind, made))
        found.append(latents.float().cpu().numpy())
    assert np.isfinite(found[0]).all()
    assert np.abs(found[0] - found[1]).max() < 1e-3 * max(1.0, np.abs(found[0]).max())


@pytest.mark.parametrize("kind", KINDS)
def test_flux_methods_in_bfloat16(kind: str, tiny: Zoo, tmp_path: Path) -> None:
    made = method(flux_runs.config_file(tmp_path, tiny, kind), tmp_path, "cuda")
    [one] = made.generate([asked(kind, made)])  # type: ignore[attr-defined]
    assert not isinstance(one, Exception), one
    assert one.image.std() > 0
    assert made.dtype() == "bfloat16"  # type: ignore[attr-defined]


def test_metrics_come_out_alike(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setenv("IDTOOL_MODELS", str(zoo.mirror))
    draw = np.random.default_rng(0)
    files = []
    for k in range(4):
        files.append(tmp_path / f"{k}.png")
        Image.fromarray(draw.integers(0, 256, (96, 80, 3), np.uint8)).save(files[-1])
    rows = [tiny_networks.row(f"{k}", files[k], [files[3 - k]], prompt=f"a man {k}") for k in range(4)]
    env = tiny_networks.bound(zoo, "clip", "features", "aesthetic", "iqa")
    families = ("clip_t", "clip_i", "dino", "aesthetic", "iqa")
    on = {
        device: tiny_networks.scored(tmp_path / device, replace(env, device=device), families, rows)
        for device in ("cpu", "cuda")
    }
    assert on["cpu"].names == on["cuda"].names
    for name in on["cpu"].names:
        np.testing.assert_allclose(on["cuda"].of(name), on["cpu"].of(name), rtol=1e-3, atol=1e-4, err_msg=name)
