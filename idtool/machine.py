"""What this machine has to compute with, found without importing anything heavy."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path


@cache
def find_cuda() -> str | None:
    """Name of the first CUDA device that this process may use, or None."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    tool = shutil.which("nvidia-smi")
    if tool is None:
        cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
        return "an NVIDIA device" if cards else None
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    # A line reads: GPU 0: NVIDIA H200 (UUID: GPU-…)
    first = next((line for line in listed.splitlines() if line.startswith("GPU ")), "")
    return first.partition(": ")[2].partition(" (")[0] or None


def cpus(root: Path = Path("/sys/fs/cgroup")) -> tuple[int, float | None]:
    """CPUs that this process may run on, and the container's quota in CPUs (None: no quota)."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return here, None
    return here, None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)


def memory(root: Path = Path("/sys/fs/cgroup")) -> tuple[int, int | None]:
    """Bytes of memory of the machine, and the container's limit (None: no limit)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        # Version 1 writes a number near 2^63 for "no limit".
        return total, int(text) if text.isdigit() and int(text) < total else None
    return total, None
