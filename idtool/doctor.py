"""`idtool doctor`: is this machine fit to run, and if not, what to do about it."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from idtool.machine import cpus, find_cuda, memory

Status = Literal["ok", "warn", "fail"]
PYTHON = ((3, 11), (3, 14))
"""First version that is supported, and the first that is not."""
LOW_DISK_GB = 5.0
LOW_MEMORY_GB = 4.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    advice: str = ""
    """What to do, when the status is not ok."""


def examine(*, online: bool = False, output: Path | None = None) -> list[Check]:
    """Look at everything. `online` allows to ask the package index; `output`: where runs are to go."""
    checks = [_python(), *_packages(), *_clashes(_installed()), *_providers(), _cuda(), _pytorch(), _ray(), _codecs()]
    checks += [_cpus(), _memory(), _disk("disk space here", Path.cwd()), _writable(output or Path.cwd())]
    checks += [*_cache(), *_weights()]
    return [*checks, _index()] if online else checks


def report(checks: list[Check]) -> dict[str, Any]:
    """What `--json` prints."""
    worst = next((s for s in ("fail", "warn") if any(check.status == s for check in checks)), "ok")
    return {"status": worst, "checks": [asdict(check) for check in checks]}


def _python() -> Check:
    version = platform.python_version()
    if PYTHON[0] <= sys.version_info[:2] < PYTHON[1]:
        return Check("python", "ok", f"{version} on {platform.system()} {platform.machine()}")
    return Check("python", "fail", version, "Use Python 3.11, 3.12 or 3.13.")


def _packages() -> Iterator[Check]:
    """Each package that idtool requires, by its own metadata."""
    try:
        required = metadata.requires("idtool") or []
    except metadata.PackageNotFoundError:
        yield Check("idtool", "warn", "runs from a folder, not installed", "Install it: pip install .")
        return
    missing = []
    for line in required:
        name = re.split(r"[\s;<>=!~\[(]", line, maxsplit=1)[0]
        if "extra ==" in line:
            continue
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Check("packages", "fail", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield Check("packages", "ok", "all that idtool requires are installed")


def _installed() -> dict[str, str]:
    return {re.sub(r"[-_.]+", "-", dist.name).lower(): dist.version for dist in metadata.distributions() if dist.name}


def _clashes(installed: Mapping[str, str]) -> Iterator[Check]:
    """Distributions that write the same files: whichever was installed last is the one that is imported."""
    for module, pattern in (
        ("cv2", r"opencv(-contrib)?-python(-headless)?"),
        ("onnxruntime", r"onnxruntime(-(gpu|directml|openvino|qnn|rocm|migraphx|training.*))?"),
    ):
        found = [f"{name} {version}" for name, version in sorted(installed.items()) if re.fullmatch(pattern, name)]
        if not found:
            yield Check(module, "fail", "not installed", "Reinstall idtool: pip install idtool")
        elif len(found) == 1:
            yield Check(module, "ok", found[0])
        else:
            names = " ".join(entry.split()[0] for entry in found)
            advice = f"They overwrite each other: pip uninstall {names}, then install the one you want."
            yield Check(module, "fail", f"{len(found)} distributions of it: {', '.join(found)}", advice)


def _providers() -> Iterator[Check]:
    try:
        import onnxruntime
    except ImportError as error:
        yield Check("inference providers", "fail", f"onnxruntime cannot be imported: {error}", "Reinstall it.")
        return
    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    if find_cuda() and "CUDA" not in providers:
        advice = "For CUDA: pip uninstall onnxruntime, pip install onnxruntime-gpu."
        yield Check("inference providers", "warn", f"{', '.join(providers)}; a GPU is here and not used", advice)
    else:
        yield Check("inference providers", "ok", ", ".join(providers))


def _cuda() -> Check:
    name = find_cuda()
    return Check("cuda", "ok", name if name else "none found; --profile auto takes offline")


def _pytorch() -> Check:
    """The extra `models`: which of its packages are missing, and whether PyTorch can use the GPU that is here."""
    from idtool.models.sources import extra_hint

    installed = _installed()
    missing = [name for name in _extra("models") if name not in installed]
    if "torch" in missing:
        return Check("extra models", "ok", f"not installed; profiles paper, modern and open need it. {extra_hint()}")
    version = f"PyTorch {installed['torch']}, transformers {installed.get('transformers', 'not installed')}"
    if missing:
        return Check("extra models", "warn", f"{version}; not installed: {', '.join(missing)}", extra_hint())
    if find_cuda():
        import torch

        if not torch.cuda.is_available():
            advice = "Install a build of torch for this driver; the models of hub profiles would be refused on cuda."
            return Check("extra models", "warn", f"{version}; a GPU is here and PyTorch cannot use it", advice)
        version += f", CUDA {torch.version.cuda}"
    return Check("extra models", "ok", version)


def _extra(name: str) -> list[str]:
    """Distributions that an extra of idtool asks for, by its own metadata."""
    try:
        required = metadata.requires("idtool") or []
    except metadata.PackageNotFoundError:
        return []
    pattern = re.compile(rf"extra\s*==\s*['\"]{name}['\"]")
    lines = [line for line in required if pattern.search(line)]
    return [re.sub(r"[-_.]+", "-", re.split(r"[\s;<>=!~\[(]", line, maxsplit=1)[0]).lower() for line in lines]


def _ray() -> Check:
    version = _installed().get("ray")
    if version is None:
        return Check("ray", "warn", "not installed", "Needed only for --engine ray: pip install ray")
    return Check("ray", "ok", version)


def _codecs() -> Check:
    """Whether the decoders of the usual video formats are in PyAV's own FFmpeg."""
    try:
        import av
    except ImportError as error:
        return Check("video", "fail", f"PyAV cannot be imported: {error}", "pip install av")
    wanted = ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg")
    missing = [name for name in wanted if name not in av.codecs_available]
    if missing:
        advice = "Videos in these formats will be rejected; install PyAV from its wheel: pip install --force av"
        return Check("video", "warn", f"PyAV {av.__version__} has no decoder for {', '.join(missing)}", advice)
    return Check("video", "ok", f"PyAV {av.__version__} decodes {', '.join(wanted)}")


def _cpus() -> Check:
    here, quota = cpus()
    limited = f", limited to {quota:g} by the container" if quota is not None and quota < here else ""
    return Check("cpu", "ok", f"{here} CPUs{limited}")


def _memory() -> Check:
    total, limit = memory()
    usable = total if limit is None else limit
    text = f"{usable / 1e9:.1f} GB{'' if limit is None else ' (limit of the container)'}"
    if usable < LOW_MEMORY_GB * 1e9:
        return Check("memory", "warn", text, "Little for several models at once: use --workers 1.")
    return Check("memory", "ok", text)


def _disk(name: str, folder: Path) -> Check:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    text = f"{free:.1f} GB free at {existing}"
    if free < LOW_DISK_GB:
        return Check(name, "warn", text, "Free some space, or put runs and cache elsewhere.")
    return Check(name, "ok", text)


def _writable(folder: Path) -> Check:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Check("output", "ok", f"{existing} can be written")
    except OSError as error:
        advice = "Choose another folder with --output."
        return Check("output", "fail", f"{existing} cannot be written: {error.strerror}", advice)


def _cache() -> Iterator[Check]:
    from idtool.models.weights import cache_dir

    folder = cache_dir()
    yield _disk("disk space of the cache", folder)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            yield Check("cache", "ok", str(folder))
    except OSError as error:
        advice = "Name another folder with IDTOOL_CACHE."
        yield Check("cache", "fail", f"{folder} cannot be written: {error.strerror}", advice)


def _weights() -> Iterator[Check]:
    from idtool.errors import IdtoolError
    from idtool.models.catalog import catalogue
    from idtool.models.weights import find, is_offline

    missing = []
    for name, weight in catalogue().items():
        try:
            if find(weight) is None:
                missing.append(name)
        except IdtoolError as error:
            yield Check("weights", "fail", error.message, error.hint)
    if missing:
        found = f"not here yet: {', '.join(missing)}"
        if is_offline():
            yield Check(
                "weights", "fail", found, "IDTOOL_OFFLINE forbids to fetch them: unset it, or use --models-dir."
            )
        else:
            advice = "They are fetched on first use, or now by: idtool models pull --profile offline"
            yield Check("weights", "warn", found, advice)
    else:
        yield Check("weights", "ok", f"all {len(catalogue())} offline weights are here")
    if importlib.util.find_spec("openvino") is None:
        yield Check(
            "portraits", "warn", "openvino is not installed", "The built-in sample needs it: pip install openvino"
        )


def _index() -> Check:
    """Whether the package index, as pip or uv are configured, answers for one small package."""
    import urllib.error
    import urllib.parse
    from http.client import HTTPException

    from idtool.models.catalog import catalogue
    from idtool.models.index import open_url
    from idtool.models.index_settings import settings

    where = settings()
    pages = where.pages(next(iter(catalogue().values())).archive.package)
    if not pages:
        return Check("package index", "warn", "pip is configured to use none", "Give weights with --models-dir.")
    host: str | None = "its address"
    try:
        parts = urllib.parse.urlsplit(pages[0])
        if parts.scheme not in ("http", "https"):
            return Check("package index", "ok", "a local folder")
        host = parts.hostname
        with open_url(pages[0], where, timeout=10):
            return Check("package index", "ok", f"{host} answers")
    except urllib.error.HTTPError as error:
        login = "It refuses the login that pip or uv is configured with, or wants one."
        advice = login if error.code in (401, 403) else "Check the index that pip or uv uses."
        return Check("package index", "warn", f"{host}: HTTP {error.code}", advice)
    except ValueError:  # the text of such an error repeats the address, which may hold a password
        return Check("package index", "warn", f"{host} cannot be read", "Check the index that pip or uv uses.")
    except (OSError, HTTPException) as error:
        advice = "Check the network, or give weights with --models-dir."
        return Check("package index", "warn", f"{host} does not answer: {error}", advice)
