"""A Slurm of several nodes on one machine, for tests: one controller and one daemon per virtual node, all in the foreground.

It needs no root, no munge and no accounting database. The nodes' cores, memory and GPUs are made up (`config_overrides`, device
files that point to /dev/null); scheduling, steps, limits and signals are real.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
START_SECONDS = 30

CONFIGURATION = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
PlugStackConfig=/dev/null
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
KillWait=2
GresTypes=gpu
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports}] CPUs=8 RealMemory=200000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES DefMemPerCPU=2000 MaxTime=3-0
PartitionName=gpu Nodes=ALL DefMemPerCPU=2000 MaxTime=3-0
"""


def missing_programs() -> list[str]:
    """Parts of Slurm that are not installed here."""
    return [program for program in PROGRAMS if shutil.which(program, path=SEARCH_PATH) is None]


class VirtualCluster:
    """A running cluster; `environment` is that of a shell on its login node."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._configure(nodes)
        commands = self._write_commands()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "PATH": f"{commands}:{SEARCH_PATH}",
            "SLURM_CONF": str(folder / "slurm.conf"),
            "CUDA_VISIBLE_DEVICES": "",  # jobs that ask for no GPU shall see none
        }
        try:
            self._start("slurmctld", "-D")
            for number in range(1, nodes + 1):
                self._start("slurmd", "-D", "-N", f"n{number}")
            self._wait_for_nodes(nodes)
        except BaseException:
            self.stop()
            raise

    def call(self, *command: str, cwd: Path | None = None) -> str:
        """Run a command on the login node and return what it printed."""
        done = subprocess.run(command, env=self.environment, cwd=cwd or self.folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def queue(self) -> dict[str, str]:
        """Job id -> state of all jobs that have not ended."""
        lines = self.call("squeue", "--noheader", "--format", "%i %T").split("\n")
        return dict(line.split() for line in lines if line)

    def stop(self) -> None:
        """End all jobs, then all daemons; nothing stays behind."""
        if self._daemons and all(daemon.poll() is None for daemon in self._daemons):
            for job in self.queue():
                self.call("scancel", "--quiet", job)
            deadline = time.monotonic() + 20
            while self.queue() and time.monotonic() < deadline:
                time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _configure(self, nodes: int) -> None:
        for part in ("state", "log", *(f"spool-n{number}" for number in range(1, nodes + 1))):
            (self.folder / part).mkdir(parents=True)
        first = _free_ports(nodes + 1)
        values = {
            "host": socket.gethostname().split(".")[0],
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "folder": self.folder,
            "nodes": nodes,
            "controller_port": first,
            "ports": f"{first + 1}-{first + nodes}",
        }
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        for number in range(2):
            (self.folder / f"gpu{number}").symlink_to("/dev/null")  # Slurm wants a device, and takes this one
        (self.folder / "gres.conf").write_text(f"NodeName=n[1-{nodes}] Name=gpu File={self.folder}/gpu[0-1]\n")
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")

    def _write_commands(self) -> Path:
        """The user commands under wrappers that say where the cluster is: Snakemake's executor takes SLURM_CONF from its jobs."""
        commands = self.folder / "bin"
        commands.mkdir()
        for program in ("sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol", "sacct", "sacctmgr"):
            real = shutil.which(program, path=SEARCH_PATH)
            if real is not None:
                wrapper = commands / program
                wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {real} "$@"\n')
                wrapper.chmod(0o755)
        return commands

    def _start(self, program: str, *options: str) -> None:
        path = shutil.which(program, path=SEARCH_PATH)
        assert path is not None
        log = (self.folder / "log" / f"{program}{options[-1]}.log").open("wb")
        self._daemons.append(subprocess.Popen([path, *options], env=self.environment, stdout=log, stderr=log))

    def _wait_for_nodes(self, nodes: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            found = subprocess.run(
                ["sinfo", "--noheader", "--Node", "--partition", "cpu", "--states", "idle", "--format", "%N"],
                env=self.environment, capture_output=True, text=True,
            )  # fmt: skip
            if len(found.stdout.split()) == nodes:
                return
            time.sleep(0.1)
        raise RuntimeError("".join(path.read_text(errors="replace")[-2000:] for path in (self.folder / "log").iterdir()))


def _free_ports(count: int) -> int:
    """The first of `count` consecutive ports that nothing listens on."""
    for first in range(17_000 + os.getpid() % 1000 * 10, 32_000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")
