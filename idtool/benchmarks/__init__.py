"""The packaged suites: one commented YAML file each, to run as they are or to copy and edit."""

from __future__ import annotations

from importlib import resources

SUFFIX = ".yaml"


def names() -> list[str]:
    """Names of the packaged suites, sorted."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(SUFFIX) for file in files if file.name.endswith(SUFFIX))


def text(name: str) -> str:
    """The file of a packaged suite, comments and all."""
    return resources.files(__name__).joinpath(f"{name}{SUFFIX}").read_text("utf-8")
