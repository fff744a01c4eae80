"""The data card of a format: the same card, but for how the data set is opened."""

from __future__ import annotations

import re
from collections.abc import Sequence

from idtool.curate.formats.base import Format
from idtool.curate.layout import Layout

_OPENING = re.compile(r"```python\n.*?\n```\n", re.DOTALL)


def fitted(text: str, format: type[Format], layout: Layout, splits: Sequence[str]) -> str:
    """The card `text`, which tells how to open Parquet files, for a data set of another format: front matter that the
    hub reads, and the passage on opening it."""
    import yaml

    _, matter, body = text.split("---\n", 2)
    content = yaml.safe_load(matter)
    patterns = {split: format.data_files(split) for split in splits}
    if all(patterns.values()):
        files = [{"split": split, "path": pattern} for split, pattern in patterns.items()]
        content["configs"] = [{"config_name": "default", "data_files": files}]
    else:
        del content["configs"]
    usage = f"Format: `{format.name}`. {format.usage(layout, splits)}\n"
    body, count = _OPENING.subn(lambda _: usage, body, count=1)
    if not count:
        raise ValueError("the data card has no passage on how the data set is opened")
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---\n{body}"
