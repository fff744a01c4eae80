"""How much memory a call took at its highest."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType


class Peak:
    """`with Peak(device) as peak:`, then `peak.bytes`: the highest allocation on a CUDA device during the block, or
    the process's highest resident memory so far on the CPU (Linux); None where it cannot be told."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> Peak:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.startswith("cuda"):
            import torch

            self.bytes = int(torch.cuda.max_memory_allocated(self.device))
        elif sys.platform.startswith("linux"):
            line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:"))
            self.bytes = int(line.split()[1]) * 1024
