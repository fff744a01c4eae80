"""Fetching weights from GitHub, InsightFace and the hub: from servers of this test's own, and when it goes wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError
from idtool.models import origins, sources
from idtool.models.addresses import parse
from tests.models.fetching import WEIGHTS, Answer, isolate, put, serving


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str, str], Answer]], str]]:
    """Start servers that run until the test ends."""
    with ExitStack() as running:
        yield lambda answer: running.enter_context(serving(answer))


# GitHub.


def test_github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Any) -> None:
    asked = []

    def answer(method: str, path: str) -> Answer:
        asked.append(path)
        return 200, {}, WEIGHTS

    monkeypatch.setattr(origins, "GITHUB_RAW", serve(answer))
    binding = Binding("x", "github:o/r", revision="v1", options={"file": "nets/a b.pth"})
    weights = sources.bound(binding, announce=lambda _: None)
    assert weights.path == tmp_path / "cache/github/o/r/v1/nets/a b.pth"
    assert weights.path.read_bytes() == WEIGHTS
    assert weights.facts()["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert [file.name for file in weights.path.parent.iterdir()] == ["a b.pth"]
    assert weights.path.stat().st_mode & 0o044, "others may read the cache"
    sources.bound(binding)
    sources.bound(Binding("x", "github:o/r", options={"file": "nets/a b.pth"}), announce=lambda _: None)
    assert asked == ["/o/r/v1/nets/a%20b.pth", "/o/r/HEAD/nets/a%20b.pth"]


def test_an_interrupted_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Any) -> None:
    long = str(2 * len(WEIGHTS))
    monkeypatch.setattr(origins, "GITHUB_RAW", serve(lambda *_: (200, {"Content-Length": long}, WEIGHTS)))
    address = parse("github:o/r", file="x.pth")
    with pytest.raises(MissingError, match=rf"closed after {len(WEIGHTS)} of {long} bytes"):
        sources.obtain(address)
    assert sources.find(address) is None
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    monkeypatch.setattr(origins, "GITHUB_RAW", serve(lambda *_: (404, {}, b"no")))
    with pytest.raises(MissingError, match="404"):
        sources.obtain(address)
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_large_files_of_github_are_not_their_pointers(monkeypatch: pytest.MonkeyPatch, serve: Any) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1000\n"
    monkeypatch.setattr(origins, "GITHUB_RAW", serve(lambda *_: (200, {}, pointer)))
    monkeypatch.setattr(origins, "GITHUB_LARGE", serve(lambda *_: (200, {}, WEIGHTS)))
    assert sources.obtain(parse("github:o/r", file="x.pth")).read_bytes() == WEIGHTS


# InsightFace.


def pack(**files: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def test_insightface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    body = pack(**{"pack/det.onnx": b"one", "pack/rec.onnx": b"two", "../evil.onnx": b"three", "pack/read.txt": b""})
    monkeypatch.setattr(origins, "INSIGHTFACE_PACKS", serve(lambda *_: (200, {}, body)))
    put(tmp_path / "packs/models/pack/left-over.txt")  # by the library, after a download that failed
    folder = sources.obtain(parse("insightface:pack"))
    assert folder == tmp_path / "packs/models/pack"
    assert {file.name: file.read_bytes() for file in folder.glob("*.onnx")} == {
        "det.onnx": b"one",
        "rec.onnx": b"two",
        "evil.onnx": b"three",
    }
    assert [file.name for file in folder.parent.iterdir()] == ["pack"]
    assert not list(tmp_path.glob("*.onnx")) + list((tmp_path / "packs").glob("*.onnx"))
    assert capsys.readouterr().out == "", "nothing may be written where --json is read"


@pytest.mark.parametrize("body", [b"no zip", pack(readme=b"")])
def test_a_bad_pack_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Any, body: bytes) -> None:
    monkeypatch.setattr(origins, "INSIGHTFACE_PACKS", serve(lambda *_: (200, {}, body)))
    with pytest.raises(MissingError, match="insightface:pack is not on this machine and cannot be fetched"):
        sources.obtain(parse("insightface:pack"))
    assert list((tmp_path / "packs/models").iterdir()) == []


# The hub: its own library in a process of its own (it reads its settings on import), against a small server.

COMMIT = "c" * 40
REPOSITORIES = {
    "o/r": {
        "config.json": b"{}",
        "tokenizer.json": b'{"a": 1}',
        "model.safetensors": WEIGHTS,
        "pytorch_model.bin": b"the same again",
        "nets/head.pth": b"a head",
        "README.md": b"for people",
    },
    "laion/both": {
        "config.json": b"{}",
        "open_clip_config.json": b"{}",
        "open_clip_model.safetensors": WEIGHTS,
        "open_clip_pytorch_model.bin": b"the same again",
        "model.safetensors": b"for transformers",
        "pytorch_model.bin": b"for transformers, again",
    },
    "packs/onnx": {"det.onnx": b"one", "rec.onnx": b"two", "card.png": b""},
}


def hub(method: str, path: str) -> Answer:
    """The endpoints of the hub that its library asks, for the repositories above and for one that is gated."""
    first, _, rest = path.partition("?")[0].removeprefix("/api/models").strip("/").partition("/")
    second, _, rest = rest.partition("/")
    name, what, revision, file = f"{first}/{second}", *[*rest.split("/", 2), "", "", ""][:3]
    files = REPOSITORIES.get(name)
    if name == "o/gated":
        return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model o/gated is restricted."}, b""
    if files is None:
        return 404, {"X-Error-Code": "RepoNotFound"}, b""
    if revision not in ("", "main", COMMIT):
        return 404, {"X-Error-Code": "RevisionNotFound"}, b""
    if what in ("", "revision"):
        found: Any = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": each} for each in files]}
        return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()
    if what == "tree":
        found = [{"type": "file", "path": each, "size": len(body), "oid": "0" * 40} for each, body in files.items()]
        return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()
    if what == "resolve" and file in files:
        hashed = hashlib.sha256(files[file]).hexdigest()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashed}"'}, files[file]
    return 404, {"X-Error-Code": "EntryNotFound"}, b""


SCRIPT = """
import json, sys, types
sys.modules["open_clip"] = types.ModuleType("open_clip")  # the real one brings PyTorch along, to no use here
table = sys.modules["open_clip.pretrained"] = types.ModuleType("open_clip.pretrained")
table.get_pretrained_cfg = lambda model, tag: {"hf_hub": "laion/both/"} if tag == "both" else {}
from idtool.engine.step import Binding
from idtool.errors import IdtoolError
from idtool.models import sources
from idtool.models.addresses import parse

def tell(name, call):
    try:
        found = call()
    except IdtoolError as error:
        found = str(error)
    print(json.dumps([name, str(found) if found is not None else None]))

whole, head = parse("hf:o/r"), parse("hf:o/r", file="nets/head.pth")
tell("before", lambda: sources.find(whole))
tell("head", lambda: sources.obtain(head))
tell("between", lambda: sources.find(whole))
tell("fetched", lambda: sources.obtain(whole))
tell("found", lambda: sources.find(whole))
tell("digest", lambda: sources.digest(sources.find(whole)))
tell("files", lambda: ",".join(sorted(p.name for p in sources.find(whole).iterdir() if p.is_file())))
(sources.find(whole) / "tokenizer.json").unlink()
tell("run", lambda: sources.fetch([Binding("clip", "hf:o/r")]))
tell("as before", lambda: (sources.find(whole) / "tokenizer.json").is_file())
tell("pull", lambda: sources.fetch([Binding("clip", "hf:o/r")], complete=True))
tell("completed", lambda: (sources.find(whole) / "tokenizer.json").is_file())
(sources.find(whole) / "model.safetensors").unlink()
tell("without weights", lambda: sources.find(whole))
clip, onnx = parse("open_clip:ViT-B-32/both"), parse("hf:packs/onnx")
tell("clip before", lambda: sources.find(clip))
tell("clip", lambda: ",".join(sorted(p.name for p in sources.obtain(clip).iterdir())))
tell("clip again", lambda: sources.find(clip))
tell("no tag", lambda: sources.find(parse("open_clip:ViT-B-32/bothh")))
tell("onnx", lambda: ",".join(sorted(p.name for p in sources.obtain(onnx).iterdir())))
tell("onnx again", lambda: sources.find(onnx))
tell("no file", lambda: sources.obtain(parse("hf:packs/onnx", file="det2.onnx")))
tell("gated", lambda: sources.obtain(parse("hf:o/gated")))
tell("absent", lambda: sources.obtain(parse("hf:o/none")))
tell("revision", lambda: sources.obtain(parse("hf:o/r", revision="v9")))
tell("odd name", lambda: sources.obtain(parse("hf:o--p/r")))
"""


def test_the_hub(tmp_path: Path, serve: Any) -> None:
    pytest.importorskip("huggingface_hub", reason="needs the extra `models`")
    settings = {
        "HF_ENDPOINT": serve(hub),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **settings}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = dict(json.loads(line) for line in done.stdout.splitlines())
    folder = tmp_path / f"hub/hub/models--o--r/snapshots/{COMMIT}"
    assert said["before"] is None
    assert said["head"] == str(folder / "nets/head.pth")
    assert said["fetched"] == said["found"] == str(folder)
    assert said["files"] == "config.json,model.safetensors,tokenizer.json", "no second copy of the weights, no card"
    assert len(said["digest"]) == 64
    assert said["run"] is said["pull"] is None
    assert said["as before"] == "False", "a run does not ask the network about what is there"
    assert said["completed"] == "True", "pulling completes a snapshot that misses files"
    assert said["without weights"] is None
    assert said["clip before"] is None
    assert said["clip"] == "config.json,open_clip_config.json,open_clip_model.safetensors"
    assert "models--laion--both" in said["clip again"]
    assert "open_clip knows no weights 'bothh' of 'ViT-B-32'" in said["no tag"]
    assert said["onnx"] == "det.onnx,rec.onnx", "where there is nothing but ONNX, that is what is wanted"
    assert "models--packs--onnx" in said["onnx again"]
    assert said["no file"].startswith("Model hf:packs/onnx/det2.onnx is not on this machine and cannot be fetched: ")
    assert "only given to those who accept its terms" in said["gated"]
    assert "`hf auth login`" in said["gated"]
    assert "shows no repository 'o/none'" in said["absent"]
    assert "has no revision 'v9'" in said["revision"]
    assert "no repository that is called 'o--p/r'" in said["odd name"]
