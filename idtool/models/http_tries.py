"""Trying a request again: how long a server asks to wait, one pause for all threads, back-off with jitter."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

T = TypeVar("T")


class Failed(Exception):
    """A try that brought no answer."""

    def __init__(
        self, reason: str, detail: str, *, again: bool = False, wait: float | None = None, setup: bool = False
    ) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail
        """One of `idtool.models.ask.REASONS`, and a sentence."""
        self.again = again
        """Whether another try may help."""
        self.wait = wait
        """Seconds that the server asks to wait; None when it does not say."""
        self.setup = setup
        """Whether there is no working server at all, as long as nothing has succeeded yet."""


def may_pass(status: int) -> bool:
    """Whether what an HTTP status is about may pass by itself."""
    return status in (408, 409, 425, 429) or status >= 500


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a `Retry-After` header, which holds seconds or a date (RFC 9110, section 10.2.3); None for none."""
    text = (header or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return float(text)
    try:
        then = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - (now or datetime.now(UTC))).total_seconds())


class Pause:
    """A time before which nobody sends anything: a rate limit is for the account, not for one thread."""

    def __init__(self) -> None:
        self._until = 0.0
        self._lock = threading.Lock()

    def extend(self, seconds: float) -> None:
        """Send nothing for so long from now."""
        with self._lock:
            self._until = max(self._until, time.monotonic() + seconds)

    def wait(self, stop: threading.Event) -> None:
        """Wait until the pause is over, or until `stop` is set."""
        while (left := self._until - time.monotonic()) > 0 and not stop.is_set():
            stop.wait(left)


def tried(
    call: Callable[[], T], *, retries: int, backoff: float, max_wait: float, pause: Pause, stop: threading.Event
) -> T:
    """`call()`, and again up to `retries` times while it raises a `Failed` that another try may mend.

    The wait before a try is what the server asks for; else drawn from 0 to `backoff`, twice, four times … as long
    (full jitter). `Failed` of the last try when all failed, when the server asks for more than `max_wait` seconds, or
    when `stop` is set.
    """
    import tenacity

    drawn = tenacity.wait_random_exponential(multiplier=backoff, max=max_wait)

    def once() -> T:
        pause.wait(stop)
        if stop.is_set():
            raise Failed("unavailable", "stopped before it was sent")
        try:
            return call()
        except Failed as error:
            if error.again and error.wait is not None:
                if error.wait > max_wait:
                    detail = f"{error.detail}; the server asks to wait {error.wait:.0f} s"
                    raise Failed(error.reason, detail, setup=error.setup) from error
                pause.extend(error.wait)
            raise

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait if isinstance(error, Failed) else None
        return drawn(state) if asked is None else asked

    policy = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, Failed) and error.again),
        stop=tenacity.stop_after_attempt(retries + 1) | tenacity.stop_when_event_set(stop),
        wait=wait,
        sleep=tenacity.sleep_using_event(stop),
        reraise=True,
    )
    return policy(once)
