"""Weights of addresses: where they are looked for, what tells them apart, and what is said when they are not here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import repository, sources
from idtool.models.addresses import parse
from tests.models.fetching import WEIGHTS, isolate, put


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


# The mirror.


def test_the_mirror(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    model = put(mirror / "o/r/model.safetensors")
    head = put(mirror / "o/heads/nets/head.pth")
    put(mirror / "open_clip/ViT-B-32/tag/open_clip_model.safetensors")
    put(mirror / "insightface/flat/det.onnx")
    put(mirror / "insightface/nested/nested/det.onnx")
    assert sources.find(parse("hf:o/r")) == mirror / "o/r"
    assert sources.find(parse("hf:o/r", file="model.safetensors")) == model
    assert sources.find(parse("github:o/heads", file="nets/head.pth")) == head
    assert sources.find(parse("open_clip:ViT-B-32/tag")) == mirror / "open_clip/ViT-B-32/tag"
    assert sources.find(parse("insightface:flat")) == mirror / "insightface/flat"
    assert sources.find(parse("insightface:nested")) == mirror / "insightface/nested/nested"
    assert sources.find(parse("insightface:nested", file="det.onnx")) == mirror / "insightface/nested/nested/det.onnx"
    for absent in ("hf:o/other", "insightface:other"):
        assert sources.find(parse(absent)) is None
    assert sources.find(parse("github:o/heads", file="nets/other.pth")) is None


def test_a_mirror_without_weights_hides_no_cache(tmp_path: Path) -> None:
    put(tmp_path / "mirror/insightface/pack/README.md")
    put(tmp_path / "mirror/o/r/README.md")
    cached = put(tmp_path / "packs/models/pack/det.onnx")
    kept = put(tmp_path / "cache/github/o/r/HEAD/net.pth")
    assert sources.find(parse("insightface:pack")) == cached.parent
    assert sources.find(parse("github:o/r", file="net.pth")) == kept


def test_split_weights_that_miss_a_part(tmp_path: Path) -> None:
    folder = tmp_path / "mirror/o/r"
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    put(folder / names[0])
    put(
        folder / "model.safetensors.index.json",
        json.dumps({"weight_map": dict(zip("ab", names, strict=True))}).encode(),
    )
    with pytest.raises(MissingError, match=rf"incomplete: it misses {names[1]}"):
        sources.find(parse("hf:o/r"))
    put(folder / names[1])
    assert sources.find(parse("hf:o/r")) == folder


def test_a_pinned_file(tmp_path: Path) -> None:
    file = put(tmp_path / "mirror/o/r/net.onnx")
    right = hashlib.sha256(WEIGHTS).hexdigest()
    assert sources.find(parse("hf:o/r", file="net.onnx", sha256=right)) == file
    with pytest.raises(MissingError, match=r"not the pinned file of hf:o/r/net\.onnx"):
        sources.find(parse("hf:o/r", file="net.onnx", sha256="0" * 64))
    with pytest.raises(MissingError, match="not the pinned file"):
        sources.fetch([Binding("x", "hf:o/r", options={"file": "net.onnx"}, sha256="0" * 64)])


def test_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(tmp_path / "mine/net.onnx")
    assert sources.find(parse(f"local:{file}")) == file
    assert sources.find(parse(f"local:{file.parent}")) == file.parent
    assert sources.find(parse(f"local:{file.parent}", file="net.onnx")) == file
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.find(parse("local:~/mine/net.onnx")) == file
    with pytest.raises(UsageError, match="is a file"):
        sources.find(parse(f"local:{file}", file="net.onnx"))
    with pytest.raises(MissingError, match=r"local:/nowhere/net\.onnx does not exist"):
        sources.obtain(parse("local:/nowhere", file="net.onnx"))


def test_a_server_has_no_weights() -> None:
    weights = sources.bound(Binding("judge", "api:gpt", licence="terms"))
    assert weights.facts() == {"model": "api:gpt", "revision": None, "sha256": None}
    sources.fetch([Binding("judge", "api:gpt")])


def test_offline_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDTOOL_OFFLINE", "1")
    for model, options in (("hf:o/r", {}), ("insightface:pack", {}), ("github:o/r", {"file": "x.pth"})):
        with pytest.raises(MissingError, match=r"IDTOOL_OFFLINE=1 forbids fetching it.*models pull"):
            sources.bound(Binding("role", model, options=options))
    monkeypatch.delenv("IDTOOL_OFFLINE")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingError, match=r"hf:o/r is not on this machine and HF_HUB_OFFLINE=1 forbids"):
        sources.other("hf:o/r")


def test_no_network_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for address in (parse("insightface:pack"), parse("github:o/r", file="x.pth")):
        with pytest.raises(MissingError, match=r"cannot be fetched: .*refused.*`idtool models pull`"):
            sources.obtain(address)
    assert capsys.readouterr().err == "Fetching insightface:pack\nFetching github:o/r/x.pth\n"


# Hashes.


def test_a_digest_covers_weights_and_settings(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    put(folder / "a.safetensors")
    alone = sources.digest(folder)
    put(folder / "sub/b.safetensors")
    both = sources.digest(folder)
    put(folder / "preprocessor_config.json", b'{"size": 224}')
    settings = sources.digest(folder)
    put(folder / "preprocessor_config.json", b'{"size": 336}')
    changed = sources.digest(folder)
    assert len({alone, both, settings, changed}) == 4
    # Copies for other libraries, and what is for people, count neither for the hash nor for the size.
    for name in (
        "pytorch_model.bin",
        "onnx/model.onnx",
        "flax_model.msgpack",
        "README.md",
        "card.png",
        ".gitattributes",
    ):
        put(folder / name)
    assert sources.digest(folder) == changed
    assert sources.size(folder) == 2 * len(WEIGHTS)
    assert sources.digest(folder / "a.safetensors") == hashlib.sha256(WEIGHTS).hexdigest()


def test_which_files_are_wanted() -> None:
    both = ["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "onnx/m.onnx", "m.py", "vocab.txt"]
    assert repository.wanted(both) == ["config.json", "model.safetensors", "vocab.txt"]
    assert repository.wanted(["config.json", "pytorch_model.bin", "README.md"]) == ["config.json", "pytorch_model.bin"]
    assert repository.wanted(["det.onnx", "rec.onnx", "card.png"]) == ["det.onnx", "rec.onnx"]
    assert repository.weight_names(["config.json"]) == []


def test_parts_of_a_pipeline_choose_their_format_each() -> None:
    names = ["model_index.json", "flux1-dev.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    names += ["unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"]
    names += ["encoder/pytorch_model.bin", "safety_checker/model.fp16.safetensors", "vae_onnx/model.onnx"]
    assert repository.weight_names(names) == [
        "encoder/pytorch_model.bin",
        "safety_checker/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert {"model_index.json", "vae/config.json"} < set(repository.wanted(names))
    assert "flux1-dev.safetensors" not in repository.wanted(names)
    assert repository.weight_names(["lora.safetensors", "model_index.json"]) == ["lora.safetensors"]


def test_blobs_of_the_hub_are_taken_at_their_names(tmp_path: Path) -> None:
    claimed = "ab" * 32
    blob = put(tmp_path / f"models--o--r/blobs/{claimed}")
    link = tmp_path / "models--o--r/snapshots/1/model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    assert sources.digest(link) == claimed
    # Not where a hash is pinned: then the bytes count.
    address = parse(f"local:{link}", sha256=hashlib.sha256(WEIGHTS).hexdigest())
    assert sources.find(address) == link
    # Small files of the cache have another kind of name, and other folders may be called so too.
    small = put(tmp_path / f"models--o--r/blobs/{'cd' * 20}")
    assert sources.digest(small) == hashlib.sha256(WEIGHTS).hexdigest()
    assert sources.digest(put(tmp_path / f"mine/blobs/{claimed}")) == hashlib.sha256(WEIGHTS).hexdigest()
