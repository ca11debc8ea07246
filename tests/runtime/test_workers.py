"""How many loader processes a rank gets, whoever started it and however its cores are bound."""

from __future__ import annotations

import pytest
import torch

from cdgmae.runtime.workers import cores_of_step, loader_processes, loader_workers
from cdgmae.settings.runtime import RuntimeSettings

SRUN = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_CPUS_ON_NODE": "128"}


@pytest.mark.parametrize(
    ("environment", "usable", "ranks", "expected"),
    [
        pytest.param(SRUN, 16, 8, 15, id="srun, each task bound to 16 of 128"),
        pytest.param(SRUN, 128, 8, 15, id="srun without task affinity: all share 128"),
        pytest.param(
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_CPUS_ON_NODE": "16"}, 16, 1, 15, id="srun, one task on each of two nodes"
        ),
        pytest.param({"SLURM_STEP_NUM_TASKS": "8", "SLURM_CPUS_ON_NODE": "8"}, 1, 8, 1, id="srun, one core each"),
        pytest.param({"TORCHELASTIC_RUN_ID": "none"}, 128, 8, 15, id="torchrun on one machine"),
        pytest.param(SRUN | {"TORCHELASTIC_RUN_ID": "none"}, 64, 8, 7, id="torchrun inside an srun task bound to 64"),
        pytest.param({}, 64, 4, 15, id="accelerate launch"),
        pytest.param({}, 16, 1, 15, id="one process"),
        pytest.param({"SLURM_STEP_NUM_TASKS": "1", "SLURM_CPUS_ON_NODE": "16"}, 16, 1, 15, id="one task of srun"),
        pytest.param({}, 1, 1, 1, id="one core"),
        pytest.param({}, 2, 4, 1, id="more ranks than cores"),
    ],
)
def test_cores_are_divided_only_where_ranks_share_them_and_one_stays_free(
    environment: dict[str, str], usable: int, ranks: int, expected: int
) -> None:
    assert loader_processes(usable, ranks, cores_of_step(environment)) == expected


def test_a_given_number_holds_and_a_cpu_training_takes_a_thread() -> None:
    assert loader_workers(RuntimeSettings(loader_workers=3), torch.device("cuda")) == 3
    assert loader_workers(RuntimeSettings(), torch.device("cpu")) == 0
