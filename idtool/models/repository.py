"""Which files of a model's folder matter: the weights in the best of the formats that are there, and its settings.

Repositories hold the same weights several times, for other libraries. What is fetched, hashed and measured is the same
choice: safetensors before PyTorch's own files before ONNX, and of the rest whatever is neither weights nor pictures.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

FORMATS = (
    ("*.safetensors",),
    ("*.bin", "*.pt", "*.pth", "*.ckpt"),
    ("*.onnx", "*.onnx_data", "*.onnx.data"),
    ("*.tflite", "*.task"),
    ("*.npz",),
)
"""Files of weights, by format, the preferred one first."""
_TORCH = FORMATS[:2]
_VARIANTS = ("*.fp16.*", "*.bf16.*", "*.fp32.*", "*non_ema*")
_NEVER = (
    *("*.msgpack", "*.h5", "*.ot", "*.gguf", "*.mlmodel", "*.mlpackage/*", "*.py", "*.ipynb", "*.md", "*.pdf"),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.mp4", "*.zip", ".*", "*/.*", "original/*"),
)
_SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja", "*.yaml")
"""Configurations, tokenizers and preprocessing: they decide the numbers as much as the weights do."""


def wanted(names: Iterable[str]) -> list[str]:
    """Those files of a repository that a wrapper may read, sorted."""
    kept = sorted(name for name in names if not _any(name, _NEVER))
    best = weight_names(kept)
    others = {name for name in kept if any(_any(name, group) for group in FORMATS)} - set(best)
    return [name for name in kept if name not in others]


def weight_names(names: Iterable[str]) -> list[str]:
    """The files of weights among them that a wrapper reads, sorted; empty when there are none.

    PyTorch's formats are chosen folder by folder, as the parts of a pipeline may differ in them; the other formats
    count only where there is no PyTorch at all. In a pipeline of diffusers (`model_index.json`), weights at the root
    are copies of its parts for other programs; files of a variant (`.fp16.`) are copies of those beside them.
    """
    listed = sorted(name for name in names if not _any(name, _NEVER))
    if "model_index.json" in listed:
        in_parts = [name for name in listed if "/" in name]
        listed = in_parts if _of_folders(in_parts, _TORCH) else listed
    found = _of_folders(listed, _TORCH)
    for group in FORMATS[len(_TORCH) :]:
        found = found or [name for name in listed if _any(name, group)]
    return found


def _of_folders(names: Iterable[str], formats: Sequence[tuple[str, ...]]) -> list[str]:
    """Of each folder the files in the first of the formats that it has, variants left out; sorted."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    found: list[str] = []
    for inside in folders.values():
        for group in formats:
            of_format = [name for name in inside if _any(name, group)]
            plain = [name for name in of_format if not _any(name, _VARIANTS)]
            if of_format:
                found += plain or of_format
                break
    return sorted(found)


def names_below(folder: Path) -> list[str]:
    """All files below a folder, relative to it, with `/`."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def weight_files(path: Path) -> list[Path]:
    """The files of weights at a path: itself, or the chosen ones below it."""
    return [path] if path.is_file() else [path / name for name in weight_names(names_below(path))]


def telling_files(path: Path) -> list[Path]:
    """Everything at a path that decides a model's numbers: weights and settings."""
    if path.is_file():
        return [path]
    names = names_below(path)
    chosen = {*weight_names(names), *(name for name in wanted(names) if _any(name, _SETTINGS))}
    return [path / name for name in sorted(chosen)]


def missing_parts(folder: Path) -> list[str]:
    """Parts of split weights that an index file in the folder names and that are not there."""
    lacking: set[str] = set()
    for name in weight_names(names_below(folder)):
        kind = name.rpartition(".")[2]
        for index in (folder / name).parent.glob(f"*.{kind}.index.json"):
            try:
                parts = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            except (OSError, ValueError, LookupError, AttributeError):
                continue
            lacking |= {part for part in parts if not (index.parent / part).is_file()}
    return sorted(lacking)


def whole_format(folder: Path, names: Iterable[str]) -> bool:
    """Whether all those weights are in a folder that a repository with these names has, in one format or another."""
    listed = list(names)
    chosen = weight_names(listed)
    if chosen and all((folder / name).is_file() for name in chosen):
        return True
    # Somebody fetched it in another format: every folder of weights must then be whole in one of them.
    usable = [name for name in listed if not _any(name, _NEVER)]
    groups = ([name for name in usable if _any(name, group)] for group in FORMATS)
    return any(group and all((folder / name).is_file() for name in group) for group in groups)


def complete(folder: Path) -> bool:
    """Whether a folder holds weights, all parts of them."""
    return bool(weight_files(folder)) and not missing_parts(folder)


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
