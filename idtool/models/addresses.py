"""Where a binding's weights come from, read off the model's address: `hf:openai/clip-vit-large-patch14`.

A name without a colon is in the catalogue of offline weights. The others are

- `hf:<owner>/<repo>`: a repository of the Hugging Face hub; option `file` picks one file of it, else it is the folder;
- `open_clip:<architecture>/<tag>`: one of open_clip's pretrained weights;
- `insightface:<pack>`: a model pack of InsightFace, a folder of ONNX files;
- `github:<owner>/<repo>`: one `file` of a GitHub repository, at the binding's revision;
- `local:<path>`: a file or folder of the user;
- `api:<model>`: a model behind an HTTP server; there are no weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from idtool.engine.step import Binding
from idtool.errors import UsageError
from idtool.registry import did_you_mean

KINDS = ("hf", "open_clip", "insightface", "github", "local", "api")
SOURCE_OPTIONS = ("file", "format")
"""Options of a binding that say which files it is and how they are read; the others go to the wrapper."""
FURTHER = ("backbone", "lora")
"""Options whose value is the address of another model that the wrapper needs; `<option>_file` names its file."""
_TWO, _ONE, _ANY = re.compile(r"[\w.-]+/[\w.-]+"), re.compile(r"[\w.-]+"), re.compile(r".+")
_PATTERNS = {"hf": _TWO, "open_clip": _TWO, "insightface": _ONE, "github": _TWO, "local": _ANY, "api": _ANY}
_TAKES = {
    "hf": "Write hf:<owner>/<repo>.",
    "open_clip": "Write open_clip:<architecture>/<tag>.",
    "insightface": "Write insightface:<pack>.",
    "github": "Write github:<owner>/<repo>, and option `file`.",
    "local": "Write local:<path>.",
    "api": "Write api:<model>.",
}


@dataclass(frozen=True)
class Address:
    """A parsed address."""

    kind: str
    """One of `KINDS`."""
    name: str
    """What stands behind the colon."""
    revision: str | None = None
    file: str | None = None
    """One file of the repository or folder; None: all of it."""
    sha256: str | None = None
    """Expected hash of `file`."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" + (f"/{self.file}" if self.file else "")


def is_offline_name(model: str) -> bool:
    """Whether `model` is a name of the catalogue of offline weights, not an address."""
    return ":" not in model


def parse(model: str, *, revision: str | None = None, file: str | None = None, sha256: str | None = None) -> Address:
    """UsageError when `model` is no address, with the nearest kind."""
    kind, colon, name = model.partition(":")
    if not colon or kind not in KINDS:
        raise UsageError(f"{model!r} is no address of a model.", did_you_mean(kind, KINDS, "Kinds of addresses"))
    if not _PATTERNS[kind].fullmatch(name) or (kind not in ("local", "api") and not _stays_inside(name)):
        raise UsageError(f"{model!r} is no address of a model: {name!r} is not what {kind}: takes.", _TAKES[kind])
    if file is not None and not (isinstance(file, str) and file):
        raise UsageError(f"Option `file` of {model!r} is no name of a file: {file!r}.", "Name a file inside it.")
    if file is not None and not _stays_inside(file):
        raise UsageError(f"Option `file` of {model!r} leaves its repository: {file!r}.", "Name a file inside it.")
    if revision is not None and not _stays_inside(revision):
        raise UsageError(f"The revision of {model!r} is none: {revision!r}.", "Name a commit, a tag or a branch.")
    if kind == "github" and not file:
        raise UsageError(f"{model!r} needs option `file`.", "Say which file of the repository holds the weights.")
    return Address(kind, name, revision, file, sha256)


def of_binding(binding: Binding) -> list[Address]:
    """All addresses that a binding needs: its own, then those of its options `FURTHER`. Offline names are left out."""
    found = []
    if not is_offline_name(binding.model):
        file = binding.options.get("file")
        found.append(parse(binding.model, revision=binding.revision, file=file, sha256=binding.sha256))
    return [*found, *further_addresses(binding.options).values()]


def further(options: Mapping[str, Any]) -> dict[str, str]:
    """Those of the options that name another model by its address."""
    return {name: str(options[name]) for name in FURTHER if options.get(name)}


def further_addresses(options: Mapping[str, Any]) -> dict[str, Address]:
    """The same, parsed, with the files that the options name."""
    return {name: parse(text, file=options.get(f"{name}_file")) for name, text in further(options).items()}


def _stays_inside(name: str) -> bool:
    """Whether a name becomes a path below the folder that it is joined to, on any system."""
    return not set("\\:") & set(name) and not any(part in ("", ".", "..") for part in name.split("/"))
