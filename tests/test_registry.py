"""The generic registry: lazy values, collisions, suggestions, plug-ins that break."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from idtool.errors import MissingError, UsageError
from idtool.registry import Registry, did_you_mean, nearest


def plug_in(folder: Path, monkeypatch: pytest.MonkeyPatch, points: str, module: str = "") -> None:
    """An installed distribution with entry points in group `test.things`, and a module of its own."""
    info = folder / "extra_things-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra-things\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[test.things]\n{points}\n")
    (folder / "extra_things_module.py").write_text(module)
    monkeypatch.syspath_prepend(str(folder))


def test_lazy_value_is_imported_on_first_use_only() -> None:
    registry: Registry[object] = Registry("thing", {"path": "pathlib:Path", "bad": "no_such_module_anywhere:X"})
    assert registry.names() == ["path", "bad"]
    assert registry.get("path") is Path
    with pytest.raises(MissingError, match="Thing 'bad' cannot be loaded from no_such_module_anywhere:X"):
        registry.get("bad")


def test_unknown_name_suggests_the_nearest() -> None:
    registry: Registry[int] = Registry("metric", {"facesim": 1, "clip": 2})
    with pytest.raises(UsageError) as caught:
        registry.get("facesmi")
    assert str(caught.value) == "Unknown metric 'facesmi'. Did you mean 'facesim'? Available: facesim, clip."


def test_collision_is_an_error_and_the_same_again_is_not() -> None:
    registry: Registry[str | int] = Registry("step", {"gate": "a:B"})
    registry.register("gate", "a:B")
    with pytest.raises(UsageError, match="Two steps are called 'gate': a:B and c:D"):
        registry.register("gate", "c:D")


def test_plug_ins_are_merged_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(tmp_path, monkeypatch, "new = extra_things_module:NEW", "NEW = 41")
    registry: Registry[int] = Registry("thing", {"old": 1}, group="test.things")
    assert dict(registry.items()) == {"old": 1, "new": 41}


def test_broken_plug_in_is_a_warning_and_leaves_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(tmp_path, monkeypatch, "new = extra_things_module:NEW", "raise RuntimeError('out of order')")
    monkeypatch.delitem(__import__("sys").modules, "extra_things_module", raising=False)
    warned: list[str] = []
    registry: Registry[int] = Registry("thing", {"old": 1}, group="test.things", warn=warned.append)
    assert dict(registry.items()) == {"old": 1}
    assert len(warned) == 1
    assert "plug-in extra_things_module:NEW of extra-things" in warned[0]
    assert "out of order" in warned[0]


def test_plug_in_cannot_replace_a_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(tmp_path, monkeypatch, "old = extra_things_module:NEW", "NEW = 41")
    warned: list[str] = []
    registry: Registry[int] = Registry("thing", {"old": 1}, group="test.things", warn=warned.append)
    assert registry.get("old") == 1
    assert "The plug-in is ignored" in warned[0]


def test_membership_and_length_count_plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(tmp_path, monkeypatch, "new = extra_things_module:NEW")
    registry: Registry[int] = Registry("thing", {"old": 1}, group="test.things")
    assert "new" in registry
    assert len(registry) == 2
    assert any(point.name == "new" for point in metadata.entry_points(group="test.things"))


def test_suggestions() -> None:
    assert nearest("Qulaity", ["quality", "equals"]) == "quality"
    assert nearest("zzz", ["quality"]) is None
    assert did_you_mean("zzz", []) == "Available: nothing."
