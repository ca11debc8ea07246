"""A Slurm of several nodes on one machine, for tests: one controller and one daemon per virtual node, all in the foreground.

The nodes' cores, memory and GPUs are made up (`config_overrides`, device files that point to /dev/null); scheduling, steps, limits,
signals, preemption and lost nodes are real. Needs no root and no munge. As root on a machine with writable control groups,
jobs are kept in these as on production clusters; elsewhere every process of a job hears every signal, and tests that need the
difference look at `control_groups`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.slurm.cluster_files import SEARCH_PATH, find_ports, has_control_groups, write_commands, write_files
from tests.slurm.kept_process import KeptProcess, wait_until

START_SECONDS = 120
QUICK_CHECKS = Path(__file__).with_name("quick_checks")


class VirtualCluster:
    """A running cluster.

    Attributes:
        nodes: Names of its nodes, unlike those of any other cluster on this machine.
        environment: That of a shell on its login node.
        control_groups: Whether jobs are kept in control groups.
    """

    def __init__(self, folder: Path, nodes: int, accounting: bool = False) -> None:
        self.folder = folder
        self.control_groups = has_control_groups()
        ports = find_ports(nodes)
        self.nodes = [f"n{ports.first}x{number}" for number in range(1, nodes + 1)]
        node_range = f"n{ports.first}x[1-{nodes}]"
        write_files(folder, ports, self.nodes, node_range, accounting=accounting, control_groups=self.control_groups)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "PATH": f"{write_commands(folder)}:{SEARCH_PATH}",
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(QUICK_CHECKS), os.environ.get("PYTHONPATH")))),
            "CUDA_VISIBLE_DEVICES": "",  # jobs that ask for no GPU shall see none
        }
        self._daemons: dict[str, KeptProcess] = {}
        try:
            if accounting:
                self._start_accounting()
            self._start("slurmctld", "slurmctld", "-D")
            for node in self.nodes:
                self.start_node(node)
            wait_until(lambda: self.idle_nodes() == self.nodes, START_SECONDS)
        except BaseException as problem:
            self.stop()
            logs = "".join(path.read_text(errors="replace")[-2000:] for path in (self.folder / "log").iterdir())
            raise RuntimeError(f"the cluster did not start:\n{logs}") from problem

    def call(
        self, *command: str, cwd: Path | None = None, timeout: float = 120, environment: dict[str, str] | None = None
    ) -> str:
        """Run a command on the login node and return what it printed."""
        done = subprocess.run(
            command, env=environment or self.environment, cwd=cwd or self.folder, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, command: list[str], log: Path, cwd: Path) -> KeptProcess:
        """Start a command on the login node."""
        return KeptProcess(command, log, self.environment, cwd=cwd)

    def queue(self) -> dict[str, str]:
        """Job id -> state of all jobs that have not ended."""
        lines = self.call("squeue", "--noheader", "--format", "%i %T").split("\n")
        return dict(line.split() for line in lines if line)

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows about a job, also for some minutes after its end: JobState, Restarts, BatchHost, ..."""
        words = self.call("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def idle_nodes(self) -> list[str]:
        """Nodes that are up and have nothing to do."""
        found = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--partition", "cpu", "--states", "idle", "--format", "%N"],
            env=self.environment, capture_output=True, text=True,
        )  # fmt: skip
        return sorted(found.stdout.split())

    def start_node(self, name: str) -> None:
        """Switch a node on."""
        cgroup = f"slurm_{name}" if self.control_groups else ""
        self._start(name, "slurmd", "-D", "-N", name, cgroup=cgroup)

    def kill_node(self, name: str) -> None:
        """Pull a node's plug: its daemon and all processes of its jobs die at once, and nobody is told."""
        self._daemons.pop(name).kill()

    def start_lost_nodes(self) -> None:
        """Switch all nodes on that are off, and wait for them."""
        for name in self.nodes:
            if name not in self._daemons:
                self.start_node(name)
        wait_until(lambda: self.idle_nodes() == self.nodes, START_SECONDS, "nodes do not come back")

    def clear(self) -> None:
        """End all jobs and wait until they are gone."""
        for job in self.queue():
            self.call("scancel", "--quiet", job)
        wait_until(lambda: not self.queue(), 120, f"jobs do not end: {self.queue()}")

    def stop(self) -> None:
        """End all jobs, then all daemons; nothing stays behind."""
        if "slurmctld" in self._daemons and all(daemon.running() for daemon in self._daemons.values()):
            self.clear()
        for name in reversed(self._daemons):
            self._daemons[name].stop()
        self._daemons.clear()

    def _start(self, name: str, program: str, *options: str, cgroup: str = "", **variables: str) -> None:
        path = shutil.which(program, path=SEARCH_PATH)
        assert path is not None
        log = self.folder / "log" / f"{name}.log"
        self._daemons[name] = KeptProcess([path, *options], log, self.environment | variables, cgroup=cgroup)

    def _start_accounting(self) -> None:
        """A database without network, passwords or users, and the daemon before it; account `default` exists."""
        data, socket = self.folder / "database", self.folder / "database.sock"
        self.call(
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={data}",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        )
        self._start(
            "mariadbd", "mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={socket}", f"--pid-file={data}/pid",
            "--skip-networking", "--skip-grant-tables", "--user=root", "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=32M", "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0",
        )  # fmt: skip
        wait_until(socket.exists, START_SECONDS)
        self._start("slurmdbd", "slurmdbd", "-D", MYSQL_UNIX_PORT=str(socket))
        answers = ["sacctmgr", "--noheader", "--parsable2", "list", "cluster"]
        wait_until(lambda: subprocess.run(answers, env=self.environment, capture_output=True).returncode == 0, START_SECONDS)
        user = self.call("id", "-un").strip()
        for what in ("cluster virtual", "account default", f"user {user} account=default"):
            self.call("sacctmgr", "--immediate", "add", *what.split())
