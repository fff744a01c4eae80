"""Prompts with marks behind words, as methods that fuse images into the text take them: the mark is taken out and the
word's token remembered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PEOPLE = (
    *("person", "man", "woman", "boy", "girl", "guy", "lady", "gentleman", "child", "kid", "baby", "teenager"),
    *("male", "female", "human", "adult"),
)
"""Words behind which a mark goes where the prompt has none."""
_WORDS = re.compile(rf"\b(?:{'|'.join(PEOPLE)})\b", re.IGNORECASE)


def with_marks(prompt: str, mark: str, people: int, *, word: bool = False) -> str:
    """The prompt with `people` marks: its own, or, where it has none, one behind each of its first words for people.

    `word`: the mark counts only where it stands as a word. ValueError when the prompt has another number of marks, or
    too few words for people.
    """
    pattern = rf"\b{re.escape(mark)}\b" if word else re.escape(mark)
    count = len(re.findall(pattern, prompt))
    if count == people:
        return prompt
    if count:
        raise ValueError(f"the prompt has {count} {mark}, and there are {people} references")
    ends = [found.end() for found in _WORDS.finditer(prompt)][:people]
    if len(ends) < people:
        raise ValueError(f"the prompt has no {mark}, and no word such as man, woman or person for each reference")
    for end in reversed(ends):
        prompt = f"{prompt[:end]} {mark}{prompt[end:]}"
    return prompt


@dataclass(frozen=True)
class Marked:
    """The tokens of a prompt without its marks."""

    ids: list[int]
    """As long as the tokenizer's limit: start, words, end, padding."""
    positions: list[list[int]]
    """For each mark that is inside the limit the tokens that stand for it."""
    cut: int
    """Tokens lost to the limit."""


def marked(tokenizer: Any, text: str, mark: str, copies: int | None = None) -> Marked:
    """Tokens of `text`, and for each `mark` the token before it; `copies`: that token so many times over, one after the
    other. The token of the end stays where the limit cuts. ValueError when a mark has no word before it."""
    ids, found = [int(tokenizer.bos_token_id)], []
    parts = text.split(mark)
    for k, part in enumerate(parts):
        ids += tokenizer(part, add_special_tokens=False, verbose=False).input_ids
        if k == len(parts) - 1:
            break
        if len(ids) == 1:
            raise ValueError(f"{mark} has no word before it")
        ids += ids[-1:] * ((copies or 1) - 1)
        found.append(list(range(len(ids) - (copies or 1), len(ids))))
    limit = int(tokenizer.model_max_length)
    cut = max(0, len(ids) + 1 - limit)
    ids = [*ids[: limit - 1], int(tokenizer.eos_token_id)]
    ids += [int(tokenizer.pad_token_id)] * (limit - len(ids))
    return Marked(ids, [at for at in found if at[-1] < limit - 1], cut)


def encoded(pipe: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """Tokens to embeddings (B, tokens, width) by the pipeline's text encoder, as SD 1.5 takes them."""
    ids = torch.tensor([list(row) for row in rows], device=pipe._execution_device)
    out: Tensor = pipe.text_encoder(ids)[0]
    return out
