"""Dynamic prompts of a suite: written by a model that looks at the references (IdGlow, section 3.2), once, for all
methods alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from idtool.engine.step import Env
from idtool.errors import RunFailed
from idtool.generate import dynamic_prompt
from idtool.generate.dynamic_prompt import Rewritten
from idtool.generate.method import MethodSettings, Request
from idtool.generate.references import References
from idtool.generate.requests import Wish
from idtool.models.caption_checks import MACHINE

Writer = Callable[[Sequence[Request]], Sequence[Rewritten]]
"""As `idtool.generate.dynamic_prompt.rewrite` with its model."""
SLICE = "prompting"
AT_ONCE = 16
"""Requests whose pictures are in memory."""


def captioner(env: Env) -> Writer:
    """The profile's captioner as a writer of prompts. MissingError when it binds none, or when it cannot be loaded."""
    from idtool.models import load

    model = load(env.require("captioner"), device=env.device)
    return lambda requests: dynamic_prompt.rewrite(model, requests)


def rewritten(found: Sequence[Wish], writer: Writer) -> list[Wish]:
    """The requests with prompts that were written for their references. One for which the model would not or could not
    write one keeps its own, and its slice says so. RunFailed when the model could not be asked."""
    asked = list(dict.fromkeys((wish.references, wish.people, wish.prompt) for wish in found))
    written: dict[tuple[Any, ...], Rewritten] = {}
    for start in range(0, len(asked), AT_ONCE):
        part = asked[start : start + AT_ONCE]
        answers = writer([_request(*one) for one in part])
        broken = next((one for one in answers if one.reason in MACHINE), None)
        if broken is not None:
            raise RunFailed(f"No prompt could be written: {broken.detail or broken.reason}.", "Try again.")
        written |= zip(part, answers, strict=True)
    out = []
    for wish in found:
        told = written[wish.references, wish.people, wish.prompt]
        state = "dynamic" if told.reason is None else f"static: {told.reason}"
        out.append(marked(replace(wish, prompt=told.prompt), state))
    return out


def _request(references: Sequence[str], people: Sequence[str | None], prompt: str) -> Request:
    """What the writer of prompts takes."""
    opened = References()
    shown = tuple(opened.person(uri, label) for uri, label in zip(references, people, strict=True))
    settings = MethodSettings()
    return Request("", prompt, shown, 0, settings.width, settings.height, settings)


def marked(wish: Wish, how: str) -> Wish:
    """The request with its way of prompting as a slice."""
    extra = json.loads(wish.extra or "{}")
    extra["slices"] = {**extra.get("slices", {}), SLICE: how}
    return replace(wish, extra=json.dumps(extra, sort_keys=True, ensure_ascii=False))
