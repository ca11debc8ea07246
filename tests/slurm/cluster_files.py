"""The configuration files of the tests' virtual cluster, and what this machine offers for it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacct", "sacctmgr")
SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
CONTROL_GROUPS = Path("/sys/fs/cgroup")
USED_CONTROLLERS = ("freezer", "memory")

SLURM = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports.controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
# A job that was put back starts again when its old credential has expired: after 2 minutes by default.
AuthInfo=cred_expire=5
CredType=cred/none
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
{processes}
{accounting}
PlugStackConfig=/dev/null
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
# A lost node is found after so many seconds, and a job gets so many between the first signal and the last.
SlurmdTimeout=8
KillWait=6
GresTypes=gpu
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports.nodes}] CPUs=8 RealMemory=200000 Gres=gpu:2 State=UNKNOWN
PartitionName=DEFAULT Nodes=ALL DefMemPerCPU=2000 MaxTime=3-0 PriorityTier=10 PreemptMode=OFF
PartitionName=cpu Default=YES
PartitionName=gpu
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=lowcancel PriorityTier=1 PreemptMode=CANCEL GraceTime=10
PartitionName=high PriorityTier=100
"""

# As on production clusters: only the first process of a task hears signals, all end with the job, too much memory is the kernel's.
WITH_CONTROL_GROUPS = """\
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/none"""

# Works for any user; too much memory is found by looking every second.
WITHOUT_CONTROL_GROUPS = """\
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill"""

CONTROL_GROUP = """\
CgroupAutomount=no
CgroupPlugin=cgroup/v1
CgroupMountpoint={mount}
ConstrainRAMSpace=yes
ConstrainCores=no
ConstrainDevices=no
"""

ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStorageTRES=gres/gpu"""

SLURMDBD = """\
AuthType=auth/none
DbdHost=localhost
DbdPort={port}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
"""


@dataclass(frozen=True)
class Ports:
    """Consecutive free ports: the controller's, the database daemon's, one per node."""

    first: int
    num_nodes: int

    @property
    def controller(self) -> int:
        return self.first

    @property
    def database(self) -> int:
        return self.first + 1

    @property
    def nodes(self) -> str:
        return f"{self.first + 2}-{self.first + 1 + self.num_nodes}"


def missing_programs(accounting: bool = False) -> list[str]:
    """Parts of Slurm that are not installed here."""
    wanted = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    missing = [program for program in wanted if shutil.which(program, path=SEARCH_PATH) is None]
    if accounting and not missing and not list(Path("/usr/lib").glob("**/slurm*/accounting_storage_mysql.so")):
        missing.append("accounting_storage_mysql.so")
    return missing


def has_control_groups() -> bool:
    """Whether Slurm can keep jobs in control groups here: version 1, writable."""
    for controller in USED_CONTROLLERS:
        probe = CONTROL_GROUPS / controller / f"probe-{os.getpid()}"
        try:
            probe.mkdir()
        except OSError:
            return False
        whole = (probe / "cgroup.procs").exists()
        probe.rmdir()
        if not whole:
            return False
    return True


def find_ports(num_nodes: int) -> Ports:
    """Ports that nothing listens on, below those of the jobs; where the search begins depends on the process."""
    count = num_nodes + 2
    for first in range(17_000 + os.getpid() % 290 * 10, 20_000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return Ports(first, num_nodes)
    raise RuntimeError("no free ports")


def write_files(folder: Path, ports: Ports, nodes: list[str], node_range: str, *, accounting: bool, control_groups: bool) -> None:
    """Write all configuration files and make the folders that they name."""
    for part in ("state", "log", "jobs", *(f"spool-{node}" for node in nodes)):
        (folder / part).mkdir(parents=True)
    user = pwd.getpwuid(os.getuid()).pw_name
    (folder / "slurm.conf").write_text(
        SLURM.format(
            host=socket.gethostname().split(".")[0], user=user, folder=folder, ports=ports, nodes=node_range,
            processes=WITH_CONTROL_GROUPS if control_groups else WITHOUT_CONTROL_GROUPS,
            accounting=ACCOUNTING.format(port=ports.database) if accounting else "AccountingStorageType=accounting_storage/none",
        )
    )  # fmt: skip
    for number in range(2):
        (folder / f"gpu{number}").symlink_to("/dev/null")  # Slurm wants a device, and takes this one
    (folder / "gres.conf").write_text(f"NodeName={node_range} Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "cgroup.conf").write_text(CONTROL_GROUP.format(mount=CONTROL_GROUPS) if control_groups else "CgroupAutomount=no\n")
    if accounting:
        daemon = folder / "slurmdbd.conf"
        daemon.write_text(SLURMDBD.format(port=ports.database, user=user, folder=folder))
        daemon.chmod(0o600)


def write_commands(folder: Path) -> Path:
    """The user commands under wrappers that say where the cluster is: Snakemake's executor takes SLURM_CONF from its jobs."""
    commands = folder / "bin"
    commands.mkdir()
    for program in ("sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol", "sacct", "sacctmgr"):
        real = shutil.which(program, path=SEARCH_PATH)
        if real is not None:
            wrapper = commands / program
            wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {real} "$@"\n')
            wrapper.chmod(0o755)
    return commands
