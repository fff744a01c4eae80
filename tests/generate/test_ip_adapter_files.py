"""Files of IP-Adapters for faces, name by name, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from idtool.engine.operator import Context
from idtool.errors import MissingError
from idtool.generate import ip_adapter_files
from idtool.generate.requests import Wish
from tests.generate.made import run
from tests.generate.stock_runs import (
    FACEID,
    FACEID_CHECKPOINTS,
    checkpoints,
    faceid_models,
    loaded,
    made,
    pipelines,
    ready_faceid,
    tiny,
)
from tests.zoo import Zoo
from tests.zoo.pipelines import TEXT

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")
pytestmark = pytest.mark.offline_weights

mirror = checkpoints(*FACEID_CHECKPOINTS, "sface")


def test_safetensors_and_bin_are_one(tiny: Zoo, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    binary = ip_adapter_files.read(tiny.mirror / "tiny" / "faceid-sd15" / "ip-adapter-faceid_sd15.bin", "a file")
    flat = {f"image_proj.{name}": tensor for name, tensor in binary.projection.items()}
    flat |= {f"ip_adapter.{name}": tensor for name, tensor in {**binary.attention, **binary.lora}.items()}
    save_file({name: tensor.contiguous() for name, tensor in flat.items()}, tmp_path / "a.safetensors")
    other = ip_adapter_files.read(tmp_path / "a.safetensors", "a file")
    assert (binary.kind, binary.width, binary.context, binary.tokens) == ("mlp", 512, TEXT, 4)
    for part in ("projection", "attention", "lora"):
        ours, theirs = getattr(binary, part), getattr(other, part)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert set(ours) == set(theirs)
    save_file({**flat, "stray": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(MissingError, match="1 unexpected \\(stray\\)"):
        ip_adapter_files.read(tmp_path / "b.safetensors", "a file")


@pytest.mark.parametrize(
    ("part", "name", "says"),
    [
        ("image_proj", "-norm.bias", "projection in .* 1 missing \\(norm.bias\\)"),
        ("image_proj", "+proj.9.weight", "1 unexpected \\(proj.9.weight\\)"),
        ("ip_adapter", "-3.to_k_ip.weight", "1 missing \\(3.to_k_ip.weight\\)"),
        ("ip_adapter", "+99.to_k_ip.weight", "1 unexpected \\(99.to_k_ip.weight\\)"),
        ("ip_adapter", "-2.to_q_lora.up.weight", "The LoRA in .* 1 missing"),
        ("ip_adapter", "~1.to_v_ip.weight", "does not fit the base: 1.to_v_ip.weight is \\(3, 3\\)"),
    ],
)
def test_files_are_accounted_for_name_by_name(part: str, name: str, says: str, tiny: Zoo, tmp_path: Path) -> None:
    source = tiny.mirror / "tiny" / "faceid-sd15" / "ip-adapter-faceid_sd15.bin"
    state = torch.load(source, weights_only=True)
    if name[0] == "-":
        del state[part][name[1:]]
    else:
        state[part][name[1:]] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "adapter.bin")
    unet = ready_faceid("sd15", "portrait").pipe.unet

    def use() -> None:
        file = ip_adapter_files.read(tmp_path / "adapter.bin", "a file")
        ip_adapter_files.fits(file, unet)
        ip_adapter_files.lora_layers(file, unet)

    with pytest.raises(MissingError, match=says):
        use()


@pytest.mark.parametrize(
    ("change", "settings", "says"),
    [
        ({"adapter": tiny("faceid-sdxl", "ip-adapter-faceid_sdxl.bin")}, {}, "does not fit"),
        ({"adapter": tiny("faceid-sd15", "ip-adapter-faceid-portrait_sd15.bin")}, {}, "not variant 'faceid'"),
        ({}, {"variant": "portrait"}, "makes 4 tokens"),
        ({"adapter": tiny("instantid", "ip-adapter.bin")}, {}, "does not fit|not variant"),
        ({"adapter": tiny("sd15", "unet/diffusion_pytorch_model.safetensors")}, {}, "does not fit"),
        ({"adapter": tiny("faceid-sd15")}, {}, "option `file`"),
        ({"adapter": tiny("faceid-sd15", "none.bin")}, {}, "none.bin"),
        ({"base": tiny("flux")}, {}, "is a FluxPipeline, and this method runs on StableDiffusionPipeline or"),
        (
            {"face": {"model": "hf:tiny/sface", "options": {"format": "sface", "file": "model.onnx"}}},
            {},
            "gives face vectors of 128 numbers; .* takes 512",
        ),
    ],
)
def test_another_file_base_or_network_is_refused(change: dict[str, Any], settings: dict[str, Any], says: str) -> None:
    with pytest.raises(MissingError, match=says):
        loaded(FACEID, {**faceid_models("sd15", "faceid"), **change}, **settings)


def test_plus_without_its_tower_cannot_run(tmp_path: Path) -> None:
    bound = {name: one for name, one in faceid_models("sd15", "plus").items() if name != "vision"}
    method = made(FACEID, bound, variant="plus")
    assert "needs model slot 'vision'" in str(type(method).why_not(method.spec, {}))
    config = pipelines(tmp_path, FACEID, bound, variant="plus")
    with pytest.raises(MissingError, match="needs model slot 'vision'"):
        run("tiny", [Wish("a man", ("/x.png",))], tmp_path / "run", config=config)
    method = made(FACEID, {**bound, "vision": tiny("sd15")}, variant="plus")
    with pytest.raises(MissingError):
        method.load(Context(str(tmp_path), 0, "cpu"))
