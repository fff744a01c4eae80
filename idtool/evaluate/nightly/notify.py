"""Telling somebody how a night went."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from idtool.evaluate.nightly.settings import Notify


def notify(hook: Notify, summary: dict[str, Any]) -> str | None:
    """Run the hook; what went wrong, or None. Never raises for what the hook does."""
    text = json.dumps(summary, default=str)
    if hook.command:
        try:
            done = subprocess.run(
                list(hook.command), input=text, text=True, capture_output=True, timeout=hook.timeout, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"the notification command failed: {error}"
        if done.returncode:
            return f"the notification command exited {done.returncode}: {done.stderr.strip()[-300:]}"
    if hook.url:
        import httpx

        from idtool.media.paths import without_login

        try:
            answer = httpx.post(
                hook.url, content=text, headers={"content-type": "application/json"}, timeout=hook.timeout
            )
            answer.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"the notification to {without_login(hook.url)} failed: {type(error).__name__}"
    return None
