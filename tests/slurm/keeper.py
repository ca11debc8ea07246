"""Runs one command and ends everything that came from it: `python keeper.py [--cgroup NAME] -- COMMAND...`.

The keeper is the parent of every orphan among the command's descendants (a subreaper), so what a daemon or a job starts cannot get
out of its sight, in whatever session it runs. It ends when the command ends, when it reads `stop` (the command is asked first) or
anything else from its standard input: a line, or the end of the file, which a killed test run leaves. All processes that are left
are then killed, and the control groups called NAME are removed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.1
STOP_SECONDS = 15
KILL_SECONDS = 20
CONTROL_GROUPS = Path("/sys/fs/cgroup")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cgroup")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(options.command, stdin=subprocess.DEVNULL, stdout=sys.stderr)  # our own output is the process id
    os.write(sys.stdout.fileno(), f"{child.pid}\n".encode())
    if read_order(child) == "stop":
        child.send_signal(signal.SIGTERM)
        wait_for_end(child, STOP_SECONDS)
    kill_descendants(child)
    if options.cgroup:
        remove_control_groups(options.cgroup)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def read_order(child: subprocess.Popen[bytes]) -> str:
    """Wait for a line or the end of standard input, and meanwhile bury orphans; empty if the child ended first."""
    while not has_ended(child):
        if select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            return sys.stdin.readline().strip()
    return ""


def has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Collect all processes that have ended; whether the child is one of them."""
    ended = child.poll() is not None
    while True:
        try:
            waiting = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ended
        if waiting is None:
            return ended
        if waiting.si_pid == child.pid:
            child.wait()
            ended = True
        else:
            os.waitpid(waiting.si_pid, 0)


def wait_for_end(child: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not has_ended(child) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS / 2)


def descendants() -> list[int]:
    """All processes that came from this one."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue  # ended meanwhile
            parent = int(text.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry))
    found, waiting = [], [os.getpid()]
    while waiting:
        offspring = children.get(waiting.pop(), [])
        found += offspring
        waiting += offspring
    return found


def kill_descendants(child: subprocess.Popen[bytes]) -> None:
    """Kill until nothing is left: what is killed may just have started something."""
    deadline = time.monotonic() + KILL_SECONDS
    while time.monotonic() < deadline:
        has_ended(child)
        left = descendants()
        if not left:
            return
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(POLL_SECONDS / 5)


def remove_control_groups(name: str) -> None:
    """Remove the trees of this name in all hierarchies; a group is busy for a moment after its last process."""
    deadline = time.monotonic() + KILL_SECONDS
    for tree in CONTROL_GROUPS.glob(f"*/{name}"):
        for folder, _, _ in os.walk(tree, topdown=False):
            while True:
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(POLL_SECONDS)
                else:
                    break


if __name__ == "__main__":
    sys.exit(main())
