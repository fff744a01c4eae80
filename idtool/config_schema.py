"""The JSON schema of pipelines.yaml for editors, and `idtool init`, which writes both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import Field, create_model

from idtool.config import FILE, SCHEMA_FILE, Steps, packaged_text
from idtool.config_models import Config, Recipe
from idtool.errors import UsageError

HEADER = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"


def json_schema(steps: Steps) -> dict[str, Any]:
    """The schema of the whole file, with each entry of a recipe checked by the settings of its kind."""
    entries: list[Any] = []
    for kind, step in steps.items():
        name = f"{kind.title().replace('_', '')}Step"
        literal: Any = Literal[kind]
        entries.append(create_model(name, __base__=step.Settings, __doc__=step.summary or None, step=(literal, ...)))
    union: Any = Union[tuple(entries)]  # noqa: UP007 - built at run time
    if len(entries) > 1:
        union = Annotated[union, Field(discriminator="step")]
    recipe = create_model("Recipe", __base__=Recipe, steps=(list[union], Field(min_length=1)))
    config = create_model("Config", __base__=Config, recipes=(dict[str, recipe], Field(min_length=1)))  # type: ignore[valid-type]
    schema = config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": f"idtool {FILE}"}


def write_starter(folder: Path, steps: Steps, *, force: bool = False) -> list[Path]:
    """Write pipelines.yaml and its schema into `folder`. UsageError when the YAML exists (unless `force`) or the
    folder cannot be written. An existing schema is ours and is renewed."""
    target, schema = folder / FILE, folder / SCHEMA_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        schema_text = json.dumps(json_schema(steps), indent=1, ensure_ascii=False) + "\n"
        with open(target, "w" if force else "x", encoding="utf-8") as out:
            out.write(HEADER + packaged_text())
        schema.write_text(schema_text, encoding="utf-8")
    except FileExistsError as error:
        raise UsageError(f"{target} exists already.", "Edit it, or overwrite it with --force.") from error
    except OSError as error:
        raise UsageError(
            f"Cannot write to {folder}: {error.strerror}.", "Choose a folder that can be written."
        ) from error
    return [target, schema]
