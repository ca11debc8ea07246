"""Commands of tests that start in a process which has imported everything: a fork instead of the seconds that libraries take to load.

`snakemake`, `cdgmae` and others in `warm_programs()` are small programs that hand their arguments, folder, environment and open files to a
server. It forks a process for each, which runs the same entry point. Signals are passed on, a program that is killed takes its process along,
and ends as its process does. `python` there starts these for `-m`, also for the processes of a pool. One server serves all pytest workers and ends
with pytest.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import multiprocessing
import os
import pkgutil
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

ENTRIES = {
    "cdgmae": "cdgmae.cli:main",
    "snakemake": "snakemake.cli:main",
    "torchrun": "torch.distributed.run:main",
    "gpu_checks": "perf.gpu_checks:main",
    "gpu_study": "perf.gpu_study:main",
    "pool_process": "tests.warm_start:be_pool_process",
}
LIBRARIES = (
    "snakemake.cli",
    "snakemake.report",
    "torchvision",
    "timm",
    "diffusers",
    "accelerate",
    "sklearn.manifold",
    "torch.distributed.run",
    "matplotlib.pyplot",
)
PYTEST_VARIABLE = "PYTEST_MAIN_PROCESS"
SOCKET, LENGTH_BYTES, MAX_FILES = "socket", 8, 250
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

CLIENT = """\
#!{python} -IS
import _signal, _socket, os, sys
server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
server.connect({socket!r})
numbers = [number for number in range({files}) if number != server.fileno() and os.path.exists(f"/proc/self/fd/{{number}}")]
words = ["{program}", os.getcwd(), " ".join(map(str, numbers)), str(len(sys.argv) - 1), *sys.argv[1:]]
text = "\\0".join(words + [f"{{name}}={{value}}" for name, value in os.environ.items()]).encode("utf-8", "surrogateescape")
files = b"".join(number.to_bytes(4, sys.byteorder) for number in numbers)
server.sendmsg([len(text).to_bytes(8, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
sent = 0
while sent < len(text):
    sent += server.send(text[sent:])
for number in {signals}:
    _signal.signal(number, lambda number, _: server.send(bytes([number])))
killed, code = server.recv(2) or b"\\0\\xff"
if killed:
    if code in {signals}:
        _signal.signal(code, _signal.SIG_DFL)
    os.kill(os.getpid(), code)
os._exit(code)
"""

PYTHON = """\
#!/bin/sh
while [ "$1" = -u ] || [ "$1" = -B ]; do shift; done
case "$1 $2" in
    "-m snakemake") shift 2; exec {folder}/snakemake "$@";;
    "-m cdgmae" | "-m cdgmae.cli") shift 2; exec {folder}/cdgmae "$@";;
    "-m torch.distributed.run") shift 2; exec {folder}/torchrun "$@";;
    "-c from multiprocessing.spawn "*) exec {folder}/pool_process "$2";;
esac
exec {python} "$@"
"""


def note_pytest() -> None:
    """Let the workers of this process know it, with which the server ends."""
    os.environ.setdefault(PYTEST_VARIABLE, str(os.getpid()))


@functools.cache
def warm_programs() -> Path:
    """The folder with the programs, whose server the first worker that asks starts; outside Linux that of the installed ones."""
    if not hasattr(os, "pidfd_open"):
        return Path(sys.executable).parent
    note_pytest()
    folder = Path(tempfile.gettempdir()) / f"warm-start-{os.environ[PYTEST_VARIABLE]}"  # short: it is in the name of a socket
    with FileLock(f"{folder}.lock"):
        if not (folder / SOCKET).exists():
            _start_server(folder)
    return folder


def _start_server(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of another process of this number
    folder.mkdir()
    for program in ENTRIES:
        text = CLIENT.format(
            python=sys.executable, socket=str(folder / SOCKET), program=program, files=MAX_FILES, signals=tuple(map(int, SIGNALS))
        )
        (folder / program).write_text(text)
    (folder / "python").write_text(
        PYTHON.format(python=sys.executable, folder=folder)
    )  # what lies beside it is what jobs find first
    for file in folder.iterdir():
        file.chmod(0o755)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.warm_start", str(folder)],
            cwd=Path(__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    while not (folder / SOCKET).exists():
        if server.poll() is not None:
            raise RuntimeError((folder / "log").read_text())
        time.sleep(0.05)


def _import_everything() -> None:
    import cdgmae

    for module in pkgutil.walk_packages(cdgmae.__path__, "cdgmae."):
        if module.name != "cdgmae.__main__":
            importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)


def _wait_for_call(folder: Path) -> Callable[[], object]:
    """Serve until pytest has ended; returns in the process of each call, with its entry point."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "new"))
    listener.listen(64)
    os.rename(folder / "new", folder / SOCKET)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who wait on calls are waited for by nobody
    listener.settimeout(2)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            _end_with_pytest(folder)
            continue
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _answer(connection, folder)
        connection.close()


def _end_with_pytest(folder: Path) -> None:
    try:
        os.kill(int(os.environ[PYTEST_VARIABLE]), 0)
    except ProcessLookupError:
        shutil.rmtree(folder)
        Path(f"{folder}.lock").unlink(missing_ok=True)
        os._exit(0)


def _answer(connection: socket.socket, folder: Path) -> Callable[[], object]:
    head, files, _, _ = socket.recv_fds(connection, LENGTH_BYTES, MAX_FILES)
    with connection.makefile("rb") as stream:
        text = stream.read(int.from_bytes(head, "big")).decode("utf-8", "surrogateescape")
    if (child := os.fork()) != 0:
        for file in files:
            os.close(file)
        with contextlib.suppress(ProcessLookupError):
            os.setpgid(child, child)
        os._exit(_attend(connection, child))
    connection.close()
    os.setpgid(0, 0)
    program, cwd, numbers, count, *words = text.split("\0")
    above = [fcntl.fcntl(file, fcntl.F_DUPFD, MAX_FILES) for file in files]  # out of the way of each other's numbers
    for file in files:
        os.close(file)
    for number, file in zip(map(int, numbers.split()), above, strict=True):
        os.dup2(file, number)
        os.close(file)
    arguments, variables = words[: int(count)], words[int(count) :]
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variable.split("=", 1) for variable in variables)
    sys.argv = [str(folder / program), *arguments]
    sys.executable = str(folder / "python")
    sys.orig_argv = [sys.executable, "-m", program, *arguments]
    multiprocessing.set_executable(sys.executable)
    for place in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if (customised := Path(place, "sitecustomize.py")).is_file():
            runpy.run_path(str(customised))
    module, _, function = ENTRIES[program].partition(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]


def _attend(connection: socket.socket, child: int) -> int:
    """Pass signals to a call's process until it ends, and its exit code back; without its program it is killed."""
    ended = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            connection.send(bytes([code < 0, abs(code)]))
            return 0
        number = connection.recv(1)
        os.killpg(child, number[0] if number else signal.SIGKILL)
        if not number:
            return 0


def be_pool_process() -> None:
    """What `multiprocessing` hands to an interpreter that it starts."""
    code = sys.argv[1]
    sys.argv[1:] = ["--multiprocessing-fork"]
    exec(code)


def main() -> None:
    """Serve, or be a call."""
    _import_everything()
    gc.freeze()  # no memory of the server is written to, and so copied, by looking for garbage
    call = _wait_for_call(Path(sys.argv[1]))
    code: object = 1
    try:
        code = call()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)  # noqa: T201
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else code is not None)  # to take down what was imported would copy all of it


if __name__ == "__main__":
    main()
