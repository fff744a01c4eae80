"""What tests of judged metrics share: a judge behind a real server on this machine, and what it is asked."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from idtool.evaluate.charis.questions import question
from tests.models.chat_server import ChatServer, Reply, Request, says

QUESTIONS = (
    *("identity", "prompt", "diversity_pose", "diversity_scene", "diversity_framing"),
    *("concept", "following", "concept_debiased", "following_debiased", "parts"),
)


def binding(server: ChatServer, **options: Any) -> dict[str, Any]:
    """The judge's entry of a profile: answers are not kept, and failures are given up at once."""
    fixed = {"base_url": server.url, "cache": False, "backoff": 0.0, "retries": 0, "repairs": 1, "timeout": 20.0}
    return {"model": "api:tiny-judge", "options": {**fixed, **options}}


def asked(request: Request) -> str:
    """Which of `QUESTIONS` a request puts."""
    prompt = request.prompt
    [name] = [name for name, mark in _marks().items() if mark in prompt]
    return name


@cache
def _marks() -> dict[str, str]:
    """Question -> a paragraph of its wording that no other one has."""
    wordings = {name: question(name).template for name in QUESTIONS}
    return {
        name: next(
            text
            for text in wording.split("\n\n")
            if "{" not in text and not any(text in other for about, other in wordings.items() if about != name)
        )
        for name, wording in wordings.items()
    }


def scores(score: int, *reasons: str, **more: Any) -> Reply:
    return says(json.dumps({"reasons": list(reasons), **more, "score": score}))
