"""A working folder for one drill: the shipped workflow and profile, with small resources, on the drills' configuration."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from cdgmae.training.metrics import MACHINE_COLUMNS
from tests.slurm.kept_process import KeptProcess, wait_until
from tests.slurm.virtual_cluster import VirtualCluster
from tests.warm_start import warm_programs

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("drills.yaml")
SHIPPED_PROFILE = ROOT / "workflow/profiles/slurm/config.yaml"
SNAKEFILE = ("--snakefile", str(ROOT / "Snakefile"), "--configfile", "config.yaml")

VIEWS = ("results/views/tiny/00000.tar", "results/views/tiny/00001.tar")
TRAINING = "results/pretrain/long/seed0"
SHORT_TRAINING = "results/pretrain/pair/seed0"
QUICK = {
    # Looked after from the second second on (and every two: quick_checks); the shipped value saves the Slurm controller work.
    "slurm-init-seconds-before-status-checks": 2,
    "latency-wait": 5,
}


def write_profile(folder: Path, resources: dict[str, dict[str, object]], **settings: object) -> None:
    """The shipped profile with other resources of some rules, and other settings, in `folder`."""
    profile: dict[str, Any] = yaml.safe_load(SHIPPED_PROFILE.read_text())
    profile |= QUICK | {name.replace("_", "-"): value for name, value in settings.items()}
    for rule, changes in resources.items():
        profile["set-resources"][rule] = {**profile["set-resources"].get(rule, {}), **changes}
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(profile))


class DrillPlace:
    """A working folder on a cluster; `python` starts the controller and, like it, its jobs."""

    def __init__(self, cluster: VirtualCluster, folder: Path, python: Path = Path(sys.executable)) -> None:
        self.cluster = cluster
        self.folder = folder
        self._python = str(python)
        self._runs = 0

    def set_config(self, **sections: dict[str, Any]) -> None:
        """Change keys of sections of the configuration."""
        file = self.folder / "config.yaml"
        config = yaml.safe_load(file.read_text())
        for section, keys in sections.items():
            config[section] |= keys
        file.write_text(yaml.safe_dump(config))

    def start(self, *targets: str) -> KeptProcess:
        """README's one command, to start and to start again."""
        self._runs += 1
        command = [self._python, "-m", "cdgmae", "cluster", "run", *SNAKEFILE, "--workflow-profile", "profile"]
        log = self.folder / f"controller{self._runs}.log"
        return self.cluster.start([*command, "--", *targets], log, self.folder)

    def job(self, rule: str, shard: str = "") -> str:
        """Wait until a job of a rule runs.

        Returns:
            The job's number.
        """
        found: list[str] = []

        def look() -> bool:
            lines = self.cluster.call("squeue", "--noheader", "--format", "%i %T %k").splitlines()
            found[:] = [line.split()[0] for line in lines if f" RUNNING rule_{rule}" in line and line.endswith(shard)]
            return bool(found)

        wait_until(look, 180, f"no running job of {rule}")
        return found[0]

    def tries(self, rule: str) -> int:
        """How many Slurm jobs were submitted for a rule, as their logs tell."""
        return len(list((self.folder / ".snakemake/slurm_logs").glob(f"rule_{rule}*/**/*.log")))


class Watch:
    """Keeps the logs of a rule's jobs and the journals of the views, also after they are removed: as hard links, made while they exist.

    Use as a context manager.
    """

    def __init__(self, place: DrillPlace, rule: str) -> None:
        self._patterns = {"logs": f"logs/{rule}/**/*.log", "journals": "work/views/make/**/*.jsonl"}
        self._place, self._ended = place, threading.Event()
        self._kept: dict[str, list[Path]] = {"logs": [], "journals": []}
        self._folder = place.folder / "kept" / rule
        self._folder.mkdir(parents=True)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        known: set[tuple[int, int]] = set()
        while not self._ended.wait(0.1):
            for kind, pattern in self._patterns.items():
                for path in self._place.folder.glob(pattern):
                    link = self._folder / f"{kind}-{len(known):04d}"
                    try:
                        inode = path.stat().st_ino
                        if (inode, 0) in known:
                            continue
                        os.link(path, link)
                    except FileNotFoundError:
                        continue  # removed meanwhile
                    known.add((inode, 0))
                    self._kept[kind].append(link)

    def logs(self) -> list[str]:
        """The logs of all tries, oldest first."""
        return [path.read_text(errors="replace") for path in self._kept["logs"]]

    def views(self) -> Counter[tuple[str, int]]:
        """How often each view was made, by the journals."""
        lines = [
            json.loads(line)
            for path in self._kept["journals"]
            for line in path.read_text().splitlines(True)
            if line.endswith("\n") and line.strip()
        ]
        return Counter((line["metadata"]["key"], line["metadata"]["view_index"]) for line in lines)


def training_rows(results: Path) -> dict[str, list[Any]]:
    """The metrics of a training, without columns about the machine."""
    table = pq.read_table(results / "metrics.parquet").drop_columns(list(MACHINE_COLUMNS))
    return table.to_pydict()


def steps_taken(folder: Path) -> Counter[int]:
    """How often each step of the long training was taken, by the events that all its tries left."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = (folder / "logs/trackers/long").rglob("events.out.tfevents.*")
    events = (event for file in files for event in EventFileLoader(str(file)).Load())
    return Counter(event.step for event in events for value in event.summary.value if value.tag == "loss")


def run_here(folder: Path, *command: str) -> None:
    """Run a command of the package, or Snakemake, in a folder of this machine, without Slurm."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CDGMAE_")}
    done = subprocess.run(
        [str(warm_programs() / "python"), "-m", *command], cwd=folder, capture_output=True, text=True, timeout=900,
        env=environment | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def copy_place(cluster: VirtualCluster, original: Path, folder: Path, *, warm: bool = False) -> DrillPlace:
    """A place of its own for a drill, with what is prepared; `warm`: commands of controller and jobs start as forks."""
    shutil.copytree(original, folder)
    return DrillPlace(cluster, folder, Path(warm_programs() if warm else sys.prefix + "/bin") / "python")
