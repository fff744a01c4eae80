"""Starts a runner and sees to it that nothing of it is left behind, however its caller ends.

`python supervise.py LIFELINE GRACE -- COMMAND…` runs the command in a process group of its own, on the standard streams
that it was given, and ends as it ends (128 + number for a signal, 127 when it cannot be started). LIFELINE is the
reading end of a pipe whose other end the caller holds and never writes to. When that closes, because the caller closed
it or died, `kill -9` included, the group gets SIGTERM and, GRACE seconds later, SIGKILL. Standard library only.

Two processes: the caller's child, which only waits, and one that supervises. Whoever kills a process with its children,
as Ray does with its workers, kills the first and not the second.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1


def main() -> int:
    lifeline, grace, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[4:]
    told, tell = os.pipe()
    if os.fork() > 0:
        os.close(tell)
        _let_go()
        return (os.read(told, 1) or b"\xff")[0]
    os.setsid()
    os.close(told)
    code = 1
    try:
        code = _supervise(lifeline, grace, command)
    finally:
        with contextlib.suppress(OSError):  # the first process may be gone
            os.write(tell, bytes([code & 0xFF]))
    return code


def _supervise(lifeline: int, grace: float, command: list[str]) -> int:
    # Handlers, not SIG_IGN: a child would inherit that.
    for ours in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(ours, lambda *_: None)
    # The end of the child and a request to stop both wake the wait below.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, stop)
    try:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_parent)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
        return 127
    _let_go()
    while child.poll() is None:
        ready, _, _ = select.select([lifeline, woken], [], [])
        if woken in ready:
            os.read(woken, 512)
        if asked or lifeline in ready:
            _end(child, grace)
            break
    # What it started itself goes with it.
    _signal(child.pid, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


def _die_with_parent() -> None:
    """In the child, on Linux: SIGKILL when the supervisor itself is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _let_go() -> None:
    """The streams are the runner's: its caller must see their end as soon as it has ended."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)


def _end(child: subprocess.Popen[bytes], grace: float) -> None:
    _signal(child.pid, signal.SIGTERM)
    until = time.monotonic() + grace
    while child.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.stdout.flush()
    os._exit(main())
