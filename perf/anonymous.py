"""Peak of anonymous memory: what a process holds that no file stands behind, so that the system cannot take it back."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Watch

STATM = Path("/proc/self/statm")
PAUSE = 0.01
"""Seconds between two looks; what is held for a shorter time may be missed."""


class Sampler(threading.Thread):
    """Looks again and again while the process works. Resident pages less those of files and shared memory: what
    `/proc/self/status` calls RssAnon."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.start()

    def run(self) -> None:
        pause = threading.Event()
        while not pause.wait(PAUSE):
            self.look()

    def look(self) -> None:
        _, resident, shared, *_ = STATM.read_text().split()
        self.peak = max(self.peak, (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE"))

    def reset(self) -> None:
        self.peak = 0
        self.look()


@dataclass
class AnonymousWatch(Watch):
    """Also keeps each step's peak of anonymous memory, in bytes."""

    sampler: Sampler = field(default_factory=Sampler)
    anonymous: dict[str, int] = field(default_factory=dict)

    def step_start(self, name: str, index: int, count: int, rows: int | None) -> None:
        super().step_start(name, index, count, rows)
        self.sampler.reset()

    def step_end(self, name: str, summary: dict[str, Any]) -> None:
        super().step_end(name, summary)
        self.sampler.look()
        self.anonymous[name] = self.sampler.peak
