"""How well an image goes with its prompt (CLIP-T, CLIPScore) and with its references (CLIP-I), by each network of role
`clip`.

Three scales of one cosine, since papers print all of them under one name. Networks differ more than methods do, and
SigLIP's cosines are of another size than CLIP's: it is trained with an offset that a cosine leaves out. So each name
carries network and scale.
"""

from __future__ import annotations

from typing import Any, ClassVar

from idtool.evaluate.measures.ranked import CLIPS, PROMPT_CLIPS
from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.networks import LikeReferences, OnNetwork, cosine, known
from idtool.evaluate.samples import Sample


class ClipT(OnNetwork):
    """The cosine itself. A prompt that is longer than the network reads is scored by its beginning; `prompt_cut` says
    how often that is so."""

    family = "clip_t"
    summary = "cosine of image and prompt"
    paper = "FastComposer, which DynamicID follows (ViT-L/14); the scale that CHARIS' tables and DMID's reward fit"
    unit = "cosine"
    bounds: ClassVar[Any] = (-1.0, 1.0)
    axis: ClassVar[Any] = "prompt"
    measures = CLIPS
    variant = "@raw"

    def __init__(self, rank: int = 0) -> None:
        super().__init__(rank)
        self.prompt = (PROMPT_CLIPS[rank].name,)
        self.text = PROMPT_CLIPS[rank].writes.names[0]

    def __call__(self, sample: Sample) -> float:
        if not sample.row["prompt"]:
            raise Unscored("no prompt")
        image, text = known(sample.image, self.column, "the image"), known(sample.prompt, self.text, "the prompt")
        return cosine(image, text)


class ClipScore(ClipT):
    """On torchmetrics' scale."""

    family = "clipscore"
    summary = "100 x cosine of image and prompt, 0 where negative"
    paper = "torchmetrics CLIPScore; ConsistentID, DMID and DreamBench++ print 100 x cosine"
    unit = "1"
    bounds: ClassVar[Any] = (0.0, 100.0)
    variant = "@x100"

    def __call__(self, sample: Sample) -> float:
        return max(100.0 * super().__call__(sample), 0.0)


class ClipScoreW(ClipT):
    """On the scale of the paper that named it."""

    family = "clipscore_w"
    summary = "2.5 x cosine of image and prompt, 0 where negative"
    paper = (
        "Hessel et al., CLIPScore, EMNLP 2021 (w = 2.5, ViT-B/32, prompts begin with 'A photo depicts': ours do not)"
    )
    unit = "1"
    bounds: ClassVar[Any] = (0.0, 2.5)
    variant = "@w2.5"

    def __call__(self, sample: Sample) -> float:
        return max(2.5 * super().__call__(sample), 0.0)


class PromptCut(OnNetwork):
    """1 for a prompt whose end the network did not read, else 0; the mean is the share of such prompts."""

    family = "prompt_cut"
    summary = "share of prompts that are longer than the network reads"
    bounds: ClassVar[Any] = (0.0, 1.0)
    better: ClassVar[Any] = "neither"
    measures = PROMPT_CLIPS

    def __init__(self, rank: int = 0) -> None:
        super().__init__(rank)
        self.image, self.prompt = (), self.image
        self.column = self.measures[rank].writes.names[1]

    def __call__(self, sample: Sample) -> float:
        return float(known(sample.prompt, self.column, "the prompt") > 0)


class ClipI(LikeReferences):
    """High for a copy of the reference, background and all: read it beside `clip_t`."""

    family = "clip_i"
    summary = "cosine of image and references, whole pictures"
    paper = "ConsistentID section 4.1, over all pairs (it swaps the descriptions of CLIP-T and CLIP-I)"
    unit = "cosine"
    bounds: ClassVar[Any] = (-1.0, 1.0)
    axis: ClassVar[Any] = "identity"
    measures = CLIPS
