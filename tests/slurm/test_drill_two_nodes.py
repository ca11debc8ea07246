"""Drill 4: training on two nodes, one process on each (gloo): the same losses as one process; a killed process ends both."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.slurm.drill_place import SHORT_TRAINING, Watch, copy_place, training_rows, write_profile
from tests.slurm.kept_process import wait_until
from tests.slurm.virtual_cluster import VirtualCluster

pytestmark = pytest.mark.slow

TWO_NODES = {
    "nodes": 2, "gres": "gpu:1", "mem_mb": "3000 * min(attempt, 2)", "runtime": 60,
    "slurm_extra": "'--ntasks-per-node=1 --signal=USR1@600'",
}  # fmt: skip


def ranks(folder: Path) -> dict[str, int]:
    """Rank -> process id of the training's processes."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = dict(word.partition(b"=")[::2] for word in (process / "environ").read_bytes().split(b"\0"))
            here = os.readlink(process / "cwd") == str(folder)
        except OSError:
            continue  # ended meanwhile
        if here and b"pretrain" in words and b"SLURM_PROCID" in variables and b"srun" not in words[0]:
            found[variables[b"SLURM_PROCID"].decode()] = int(process.name)
    return found


def test_two_nodes_learn_what_one_process_learns_and_a_killed_rank_ends_both(
    cluster: VirtualCluster, undisturbed: Path, prepared: Path, tmp_path: Path
) -> None:
    place = copy_place(cluster, prepared, tmp_path / "place", warm=True)
    place.set_config(runtime={"checkpoint_interval_steps": 50})
    write_profile(place.folder / "profile", {"pretrain_encoder": TWO_NODES})
    with Watch(place, "pretrain_encoder") as training:
        controller = place.start(f"{SHORT_TRAINING}/encoder.safetensors")
        saved = place.folder / "work/pretrain/pair"
        wait_until(lambda: list(saved.rglob("state-*.pt")), 120, "no state is saved")
        job = place.job("pretrain_encoder")
        assert cluster.job(job)["NumNodes"] == "2"
        processes = ranks(place.folder)
        assert processes.keys() == {"0", "1"}
        os.kill(processes["1"], signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: not Path("/proc", str(processes["0"])).exists(), 60, "the other rank goes on")
        assert time.monotonic() - began < 60
        assert controller.wait(300) == 0, controller.output()
    assert any("going on after step" in log for log in training.logs()[1:])
    result, alone = training_rows(place.folder / SHORT_TRAINING), training_rows(undisturbed / SHORT_TRAINING)
    assert result["step"] == alone["step"]
    np.testing.assert_allclose(result["loss"], alone["loss"], atol=1e-4)
