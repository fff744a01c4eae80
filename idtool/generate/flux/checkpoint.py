"""Checkpoints of methods that we can train or that users bring: tensors by their natural names in a `.safetensors`
file, and a card as a JSON object under the key `idtool` of the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from idtool.engine.step import Binding
from idtool.errors import MissingError

KEY = "idtool"


class Card(BaseModel):
    """What has to be known of a checkpoint besides its tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    """`dmid`, `instruct-identity`, …"""
    base: str
    """Repository of the model that it was trained on, `black-forest-labs/FLUX.1-dev`."""
    rank: int = Field(ge=1)
    """Of the LoRA."""
    alpha: float = Field(gt=0)
    """Of the LoRA; its scale is alpha / rank."""
    position_delta: tuple[int, int] | None = None
    """Rows and columns, in tokens, by which positions of the condition are moved."""
    condition_size: int | None = Field(default=None, ge=16)
    """Side in pixels of the condition picture in training."""
    d2: int | None = Field(default=None, ge=1)
    """Inner width of the AttnMaskNets; None: it has none (DMID's first stage)."""
    residual_blocks: int = Field(default=1, ge=0)
    """Of each AttnMaskNet."""
    revision: str | None = None
    """Of the base, or of the code that trained it."""
    paper: str | None = None


C = TypeVar("C", bound=Card)


def read_card(path: Path, method: str, what: str, kind: type[C]) -> C:
    """The card of a file, as `kind`. MissingError when the file cannot be read, has none, or one of another method."""
    from safetensors import SafetensorError, safe_open

    keys = ", ".join(name for name in kind.model_fields if name != "method")
    hint = f"Its metadata need the key {KEY!r} with a JSON object: method ({method}), {keys}."
    if path.suffix != ".safetensors":
        raise MissingError(f"{what} is no .safetensors file, so it cannot say what it was trained for.", hint)
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        raise MissingError(f"{what} cannot be read (is it complete?): {error}.", "Fetch it again.") from error
    if text is None:
        raise MissingError(f"{what} has no card: its metadata lack the key {KEY!r}.", hint)
    try:
        told = json.loads(text)
        # Cards of other methods have other keys, which would only distract.
        if isinstance(told, Mapping) and told.get("method", method) != method:
            raise MissingError(f"{what} is a checkpoint of {told['method']}, not of {method}.", "Bind another file.")
        return kind.model_validate(told)
    except (ValidationError, json.JSONDecodeError) as error:
        first = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else None
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise MissingError(f"The card of {what} cannot be used: {why}.", hint) from error


def write(path: Path, tensors: Mapping[str, Any], card: Card) -> None:
    """Write torch tensors and their card."""
    from safetensors.torch import save_file

    save_file(dict(tensors), path, metadata={KEY: card.model_dump_json()})


def check_ranks(card: Card, ranks: Sequence[int], what: str) -> None:
    """MissingError when the LoRA's ranks are not the one that the card tells."""
    if list(ranks) != [card.rank]:
        raise MissingError(
            f"{what} has LoRA ranks {', '.join(map(str, ranks))}, but its card says {card.rank}.", "Correct its card."
        )


def check_base(card: Card, base: Binding, what: str) -> None:
    """MissingError when a checkpoint was trained on another model than slot `base` holds. A local folder is taken at
    its word: shapes are checked on loading."""
    kind, _, name = base.model.partition(":")
    if kind == "hf" and name != card.base:
        raise MissingError(
            f"{what} was trained on {card.base}, but slot `base` is bound to {name}.", "Bind its own base model."
        )
