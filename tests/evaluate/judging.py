"""What tests of judged metrics share: registered names, a judge behind a real server on this machine, sample rows."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from idtool.evaluate.charis.questions import question
from idtool.evaluate.measures import MEASURES
from idtool.evaluate.metrics import METRICS
from tests.models.chat_server import ChatServer, Reply, Request, says

QUESTIONS = (
    *("identity", "prompt", "diversity_pose", "diversity_scene", "diversity_framing"),
    *("concept", "following", "concept_debiased", "following_debiased", "parts"),
)


def register() -> None:
    """Until the registries list them."""
    judge, metrics = "idtool.evaluate.measures.judge", "idtool.evaluate.metrics"
    for name, cls in {
        "judge_identity": f"{judge}:JudgeIdentity",
        "judge_prompt": f"{judge}:JudgePrompt",
        "judge_diversity": f"{judge}:JudgeDiversity",
        "judge_concept": f"{judge}:JudgeConcept",
        "judge_following": f"{judge}:JudgeFollowing",
        "judge_concept_debiased": f"{judge}:JudgeConceptDebiased",
        "judge_following_debiased": f"{judge}:JudgeFollowingDebiased",
        "color_score": "idtool.evaluate.measures.color_score:ColorScore",
        "prompt_clip": "idtool.evaluate.measures.prompt:PromptClip",
    }.items():
        if name not in MEASURES:
            MEASURES.register(name, cls)
    for name, cls in {
        "charis_id": f"{metrics}.charis:CharisId",
        "charis_prompt": f"{metrics}.charis:CharisPrompt",
        "charis_prompt_rescaled": f"{metrics}.charis:CharisPromptRescaled",
        "charis_color": f"{metrics}.charis:CharisColor",
        "colorscore": f"{metrics}.charis:ColorScore",
        "charis_quality": f"{metrics}.charis:CharisQuality",
        "charis_diversity": f"{metrics}.charis:CharisDiversity",
        "charis": f"{metrics}.charis:Charis",
        "charis_rescaled": f"{metrics}.charis:CharisRescaled",
        "charis_filter": f"{metrics}.charis:CharisFilter",
        "charis_alg2": f"{metrics}.charis:CharisAlg2",
        "charis_axes": f"{metrics}.charis:CharisAxes",
        "dreambench_cp": f"{metrics}.judged:Concept",
        "dreambench_pf": f"{metrics}.judged:Following",
        "dreambench_cppf": f"{metrics}.judged:Both",
        "dreambench_cp_debiased": f"{metrics}.judged:ConceptDebiased",
        "dreambench_pf_debiased": f"{metrics}.judged:FollowingDebiased",
        "dreambench_cppf_debiased": f"{metrics}.judged:BothDebiased",
        "judge_agreement": f"{metrics}.judged:JudgeAgreement",
    }.items():
        if name not in METRICS:
            METRICS.register(name, cls)


register()


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
