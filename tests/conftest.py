"""Shared fixtures: the photos and videos beside the checkout, and the cache of offline weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.zoo import Zoo

REPO = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers are the parallelism: threads of PyTorch in each of them would fight over the same cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Real photos and videos that never enter the repo. Tests that need them skip where they are absent."""
    folder = Path(os.environ.get("IDTOOL_FIXTURES", REPO.parent / "shared" / "fixtures"))
    if not (folder / "ATTRIBUTION.csv").exists():
        pytest.skip(f"no test photos at {folder}: set IDTOOL_FIXTURES to a folder that has ATTRIBUTION.csv")
    return folder


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Tiny checkpoints by name. Tests that need them skip where PyTorch is not installed."""
    pytest.importorskip("torch", reason="needs the extra `models`")
    pytest.importorskip("transformers", reason="needs the extra `models`")
    os.environ["HF_HUB_OFFLINE"] = "1"
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def tiny(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """As `zoo`, with its folder as the mirror that models are looked for in."""
    monkeypatch.setenv("IDTOOL_MODELS", str(zoo.mirror))
    return zoo


LONG = (
    "test_kill.py",
    "test_sample.py",
    "test_refine.py",
    "test_idglow.py",
    "test_generate.py",
    "test_runner.py",
    "test_plugin.py",
    "test_fixtures.py",
    "test_recipes.py",
    "test_tiny_recipes.py",
    "test_two_nodes.py",
)
"""Files that take a minute or more, the longest first: begun last, one of them would keep one worker busy while the
others wait."""


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        config.option.loadscopereorder = False  # which would begin files with few tests last


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONG)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("offline_weights") and os.environ.get("IDTOOL_OFFLINE") == "1":
        pytest.skip("needs weights of the package index, and IDTOOL_OFFLINE=1 forbids fetching them")
