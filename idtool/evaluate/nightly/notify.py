"""Telling somebody how a night went."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from typing import Any

from idtool.evaluate.nightly.settings import Notify


def notify(hook: Notify, summary: dict[str, Any]) -> list[str]:
    """Run the hook, the command and the post; what went wrong. Never raises for what the hook does."""
    text = json.dumps(summary, default=str)
    return [why for why in (_run(hook, text), _post(hook, text)) if why]


def _run(hook: Notify, text: str) -> str | None:
    if not hook.command:
        return None
    try:
        # In a session of its own: what the command started ends with it, and cannot keep the night from ending.
        process = subprocess.Popen(
            hook.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return f"the notification command cannot run: {error}"
    with process:
        try:
            _, said = process.communicate(text, timeout=hook.timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return f"the notification command did not end within {hook.timeout:g} s"
    if process.returncode:
        return f"the notification command exited {process.returncode}: {said.strip()[-300:]}"
    return None


def _post(hook: Notify, text: str) -> str | None:
    if not hook.url:
        return None
    import httpx

    try:
        answer = httpx.post(hook.url, content=text, headers={"content-type": "application/json"}, timeout=hook.timeout)
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        return f"the notification to {hook.host} failed: status {error.response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"the notification to {hook.host} failed: {type(error).__name__}"
    return None
