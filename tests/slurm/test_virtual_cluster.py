"""What the other tests of this folder rely on: the cluster enforces memory, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster_files import CONTROL_GROUPS, missing_programs
from tests.slurm.kept_process import wait_until
from tests.slurm.virtual_cluster import VirtualCluster

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

# A test run that is about to be killed: its job leaves a process in a session of its own.
RUN = """
import sys, time
from pathlib import Path
from tests.slurm.virtual_cluster import VirtualCluster

cluster = VirtualCluster(Path(sys.argv[1]), nodes=2)
cluster.call("sbatch", "--mem=100", "--wrap", "setsid sleep 4321 & srun --overlap sleep 4321")
controller = cluster.start(["sleep", "4321"], Path(sys.argv[1], "controller.log"), Path(sys.argv[1]))
print(*cluster.nodes, flush=True)
time.sleep(100)
"""


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes whose working folder, open files, environment or arguments name the cluster's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            known = words + (process / "environ").read_bytes() + os.fsencode(os.readlink(process / "cwd"))
            known += b"".join(os.fsencode(os.readlink(file)) for file in (process / "fd").iterdir())
        except OSError:
            continue  # ended meanwhile
        if os.fsencode(folder) in known:
            found.append(words.replace(b"\0", b" ").decode())
    return found


def test_a_killed_test_run_leaves_no_process_and_no_control_group(tmp_path: Path) -> None:
    if missing_programs():
        pytest.skip(f"Slurm is not installed here: no {', '.join(missing_programs())}")
    folder = tmp_path / "cluster"
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([sys.executable, "-c", RUN, str(folder)], stdout=subprocess.PIPE, env=environment, text=True)
    try:
        assert run.stdout is not None
        nodes = run.stdout.readline().split()
        assert len(nodes) == 2
        wait_until(lambda: sum("sleep 4321" in line for line in processes_of(folder)) >= 3, 20)
        assert any("slurmctld" in line for line in processes_of(folder))
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    wait_until(lambda: not processes_of(folder), 20, f"left behind: {processes_of(folder)}")
    for node in nodes:
        assert not list(CONTROL_GROUPS.glob(f"*/slurm_{node}"))
    port = int(nodes[0].strip("n").split("x")[0])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_job_above_its_memory_is_killed_alone(cluster: VirtualCluster) -> None:
    program = "import time; block = bytearray(400_000_000); time.sleep(5)"
    jobs = {
        memory: cluster.call(
            "sbatch", "--parsable", f"--mem={memory}", "--wrap", f"exec {sys.executable} -c {program!r}"
        ).strip()
        for memory in (100, 1000)
    }  # fmt: skip
    wait_until(lambda: not cluster.queue(), 40)
    states = {memory: cluster.job(job)["JobState"] for memory, job in jobs.items()}
    assert states[1000] == "COMPLETED"
    assert states[100] in ("OUT_OF_MEMORY", "FAILED", "CANCELLED")
    if cluster.control_groups:
        assert states[100] == "OUT_OF_MEMORY"
