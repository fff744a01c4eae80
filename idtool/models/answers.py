"""What answers cost, and a cache of them on disk, so that no question is paid for twice.

An answer is kept under a hash of everything that it depends on: the model's fingerprint, the question, its settings and
the pixels of its images. What is kept: answers that count, refusals and answers cut at their limit, all of which the
same question would get again. What is not: time-outs and failures of the server, and answers that did not fit their
schema, which another try may mend.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from idtool.errors import MissingError
from idtool.models import weights
from idtool.models.ask import Answer, Ask

KEPT_REASONS = (None, "refused", "cut")


def folder() -> Path:
    """Where answers are kept: `answers` in the folder of `IDTOOL_CACHE`."""
    return weights.cache_dir() / "answers"


def key(fingerprint: Mapping[str, Any], ask: Ask) -> str:
    """SHA-256 over all that an answer depends on."""
    content = {
        "model": fingerprint,
        "prompt": ask.prompt,
        "system": ask.system,
        "schema": ask.schema,
        "max_tokens": ask.max_tokens,
        "repeat": ask.repeat,
        "images": [_image_hash(image) for image in ask.images],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _image_hash(image: Any) -> str:
    digest = hashlib.sha256(f"{image.shape} {image.dtype}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


class AnswerCache:
    """Answers by their keys, a small file each. Any number of threads and processes may use one folder: files appear
    whole or not at all, and two that write the same key write the same answer."""

    def __init__(self, place: Path | None = None) -> None:
        """`place`: the folder; None: `folder()`. MissingError when it cannot be made."""
        self._place = place or folder()
        with self._errors():
            self._place.mkdir(parents=True, exist_ok=True)

    def get(self, name: str) -> Answer | None:
        """The answer under a key, marked as cached and free of charge; None when there is none that can be read."""
        try:
            stored = json.loads(self._file(name).read_text("utf-8"))
            answer = Answer(**stored)
        except (OSError, ValueError, TypeError):
            return None
        cost = None if answer.cost is None else 0.0
        return replace(answer, tokens_in=0, tokens_out=0, cost=cost, cached=True)

    def put(self, name: str, answer: Answer) -> None:
        """Keep an answer, if it is of the kind that is kept. MissingError when the disk does not take it."""
        if answer.reason not in KEPT_REASONS:
            return
        file = self._file(name)
        with self._errors():
            file.parent.mkdir(exist_ok=True)
            partial = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
            partial.write_text(json.dumps(asdict(answer)), "utf-8")
            partial.replace(file)

    def _file(self, name: str) -> Path:
        return self._place / name[:2] / f"{name}.json"

    @contextlib.contextmanager
    def _errors(self) -> Any:
        try:
            yield
        except OSError as error:
            raise MissingError(
                f"Answers cannot be kept in {self._place}: {error.strerror or error}.",
                "Make room, name another folder with IDTOOL_CACHE, or give the model the option `cache: false`.",
            ) from error


@dataclass
class Usage:
    """What a model was asked and what that took, since it was loaded. Thread-safe."""

    asks: int = 0
    answered: int = 0
    """Answers that count."""
    cached: int = 0
    """Answers taken from the cache, whether they count or not."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    """None until an answer has a cost."""
    reasons: Counter[str] = field(default_factory=Counter)
    """How often answers did not count, by reason; `refused` for refusals."""
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        with self._lock:
            self.asks += 1
            self.answered += answer.ok
            self.cached += answer.cached
            self.tokens_in += answer.tokens_in
            self.tokens_out += answer.tokens_out
            if answer.cost is not None:
                self.cost = (self.cost or 0.0) + answer.cost
            if answer.reason is not None:
                self.reasons[answer.reason] += 1

    def totals(self) -> dict[str, Any]:
        """All figures at one moment, JSON-able, for reports."""
        with self._lock:
            return {
                "asks": self.asks,
                "answered": self.answered,
                "cached": self.cached,
                "tokens_in": self.tokens_in,
                "tokens_out": self.tokens_out,
                "cost": self.cost,
                "not_answered": dict(sorted(self.reasons.items())),
            }
