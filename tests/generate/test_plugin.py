"""The example package of the docs, built, installed and run through the command line; and plug-ins that are broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from idtool.generate.baselines import fitted
from idtool.media.images import decode
from tests.conftest import REPO
from tests.generate.runners import bare_pipelines

EXAMPLE = REPO / "docs" / "examples" / "idtool-example-method"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the example was installed into, by uv where it is here, as its wheel says otherwise."""
    pytest.importorskip("setuptools", reason="the example is built with setuptools")
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(EXAMPLE, folder / "source")
    build = "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=source, capture_output=True, text=True, timeout=120, check=True
    )
    wheel = folder / done.stdout.split()[-1]
    target = folder / "site"
    uv = shutil.which("uv")
    if uv is None:
        zipfile.ZipFile(wheel).extractall(target)
    else:
        install = [uv, "pip", "install", "--offline", "--no-deps", "--python", sys.executable, "--target", str(target)]
        subprocess.run([*install, str(wheel)], capture_output=True, timeout=120, check=True)
    return target


def idtool(*arguments: str, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "idtool", *arguments],
        cwd=site.parent,
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{REPO}"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def pipelines(folder: Path, **methods: dict[str, object]) -> Path:
    """With `copy` beside the plug-in's methods."""
    return bare_pipelines(folder / "pipelines.yaml", copy={"kind": "copy"}, **methods)


def broken(folder: Path) -> Path:
    """An installed package whose three methods are of no use: one is not there, one fails on import, one takes a name
    that is taken."""
    folder.mkdir(exist_ok=True)
    info = folder / "idtool_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: idtool-broken\nVersion: 1.0\n")
    points = ["gone = no_such_module:Method", "torn = idtool_torn:Method", "copy = idtool_torn:Copy"]
    (info / "entry_points.txt").write_text("\n".join(["[idtool.methods]", *points]) + "\n")
    (folder / "idtool_torn.py").write_text("raise RuntimeError('made for another idtool')\n")
    return folder


def test_the_example_is_installed_and_run(site: Path, fixtures: Path, tmp_path: Path) -> None:
    photo = fixtures / "identities" / "obama" / "00_face_recognition.jpg"
    config = pipelines(tmp_path, mirror={"kind": "mirror", "settings": {"width": 64, "height": 48}})
    options = ["--config", str(config), "--profile", "bare"]
    shown = idtool("methods", "show", "mirror", *options, "--json", site=site)
    assert shown.returncode == 0, shown.stderr
    facts = json.loads(shown.stdout)
    assert (facts["state"], facts["settings"]["noise"], facts["people"]) == ("ready", 4.0, "1")
    output = tmp_path / "run"
    made = idtool(
        *("generate", "-m", "mirror", "--ref", str(photo), "--prompt", "a portrait", "--set", "noise=0", *options),
        *("-o", str(output), "--json", "-q"),
        site=site,
    )
    assert made.returncode == 0, made.stderr
    [image] = json.loads(made.stdout)["images"]
    assert np.array_equal(decode(Path(image).read_bytes()), fitted(decode(photo.read_bytes()), 64, 48)[:, ::-1]), (
        "pixels of the plug-in"
    )
    wrong = idtool("generate", "-m", "mirror", "--ref", str(photo), "--set", "nois=0", *options, site=site)
    assert wrong.returncode == 2
    assert "noise" in wrong.stderr


def test_without_the_package_its_kind_is_unknown(tmp_path: Path) -> None:
    config = pipelines(tmp_path, mirror={"kind": "mirror"})
    shown = idtool("methods", "show", "mirror", "--config", str(config), "--profile", "bare", site=tmp_path)
    assert shown.returncode == 2
    assert "Unknown method 'mirror'" in shown.stderr


def test_broken_plugins_break_nothing(tmp_path: Path) -> None:
    site = broken(tmp_path / "site")
    config = pipelines(tmp_path)
    listed = idtool("methods", "list", "--config", str(config), "--profile", "bare", "--json", site=site)
    assert listed.returncode == 0, listed.stderr
    assert [(row["method"], row["state"]) for row in json.loads(listed.stdout)] == [("copy", "ready")]
    assert "Two methods are called 'copy'" in listed.stderr
    assert "The plug-in is ignored" in listed.stderr


def test_a_broken_plugin_in_use_is_listed_as_such(tmp_path: Path) -> None:
    site = broken(tmp_path / "site")
    config = pipelines(tmp_path, gone={"kind": "gone"}, torn={"kind": "torn"})
    listed = idtool("methods", "list", "--config", str(config), "--profile", "bare", "--json", site=site)
    assert listed.returncode == 0, listed.stderr
    rows = {row["method"]: row for row in json.loads(listed.stdout)}
    assert rows["copy"]["state"] == "ready"
    assert rows["gone"]["state"] == rows["torn"]["state"] == "cannot"
    assert "made for another idtool" in rows["torn"]["why"]


def test_using_a_broken_plugin_says_what_is_wrong(tmp_path: Path) -> None:
    site = broken(tmp_path / "site")
    config = pipelines(tmp_path, torn={"kind": "torn"})
    shown = idtool("methods", "show", "torn", "--config", str(config), "--profile", "bare", site=site)
    assert shown.returncode == 4
    assert "cannot be loaded from plug-in idtool_torn:Method of idtool-broken" in shown.stderr
    assert "made for another idtool" in shown.stderr


def test_the_example_of_the_readme_is_valid() -> None:
    """Its lines of YAML, and the entry point that it speaks of."""
    text = (EXAMPLE / "README.md").read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith("  mirror:"))
    assert yaml.safe_load(line)["mirror"]["kind"] == "mirror"
    assert 'mirror = "idtool_example_method:Mirror"' in (EXAMPLE / "pyproject.toml").read_text("utf-8")
