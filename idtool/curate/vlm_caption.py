"""Captions by a vision-language model (role `captioner`): questions about images, answers checked, names kept out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.curate.prompts import NO_NAMES, Prompt
from idtool.engine.operator import Context
from idtool.engine.step import Binding
from idtool.models.ask import Ask
from idtool.models.caption_checks import NAMED, Limits, Said, judged

ROLE = "captioner"
Image = npt.NDArray[np.uint8]


@dataclass
class Writer:
    """Asks about images. Picklable until `load`; then called from several threads."""

    binding: Binding
    prompts: Mapping[str, Prompt]
    """Name of a part of the caption -> the question."""
    limits: Limits
    max_tokens: int

    def config(self) -> dict[str, Any]:
        """What the captions depend on."""
        return {
            "model": self.binding.model,
            "revision": self.binding.revision,
            "options": dict(self.binding.options),
            "prompts": {part: prompt.facts() for part, prompt in self.prompts.items()},
            "no_names": NO_NAMES.version,
            "words": [self.limits.min_words, self.limits.max_words],
            "max_tokens": self.max_tokens,
        }

    def load(self, context: Context) -> None:
        """Get the model ready; called once per worker."""
        from idtool.models import load

        self.model: Any = load(self.binding, device=context.device, threads=context.threads)

    def __call__(self, images: Sequence[Image], names: Sequence[Collection[str]]) -> list[dict[str, Said]]:
        """For each RGB uint8 image, part -> caption. `names`: what the person in it must not be called.

        An answer that names the person is asked for once more, with the wish to leave names out. Raises Unavailable
        when the model cannot be asked.
        """
        asked = [(k, part) for k in range(len(images)) for part in self.prompts]
        said = self._ask(images, names, asked, again=False)
        named = [key for key in asked if said[key].reason == NAMED]
        said |= self._ask(images, names, named, again=True)
        return [{part: said[k, part] for part in self.prompts} for k in range(len(images))]

    def _ask(
        self,
        images: Sequence[Image],
        names: Sequence[Collection[str]],
        asked: Sequence[tuple[int, str]],
        *,
        again: bool,
    ) -> dict[tuple[int, str], Said]:
        if not asked:
            return {}
        more = f" {NO_NAMES.text}" if again else ""
        asks = [Ask(self.prompts[part].text + more, (images[k],), max_tokens=self.max_tokens) for k, part in asked]
        answers = self.model.ask(asks)
        return {
            (k, part): judged(answer, self.limits, names[k]) for (k, part), answer in zip(asked, answers, strict=True)
        }


def known_names(row: Mapping[str, Any], prefix: str = "") -> frozenset[str]:
    """What the person in an image is called in the table: the label it came with and, unless that is a hash, the
    identity it was given."""
    label, identity = row.get(f"{prefix}identity_label"), row.get("identity")
    names = {label, None if identity and identity.startswith("id-") else identity}
    return frozenset(name for name in names if name)
