"""The clusters that the tests of this folder share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared_folders import made_once
from tests.slurm.cluster_files import missing_programs
from tests.slurm.drill_place import CONFIG, SHORT_TRAINING, SNAKEFILE, TRAINING, VIEWS, run_here
from tests.slurm.virtual_cluster import VirtualCluster

NODES = 3

GROUPS = {"test_drill_losses": "losses"} | dict.fromkeys(
    ("test_drill_failures", "test_drill_interruptions", "test_drill_two_nodes"), "drills"
)
"""Files whose tests one worker runs; "slurm": all others."""

ENCODER = 'random:{"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}'
GENERATOR = {
    "dataset": "demo", "encoder": {"timm": "unused"}, "encoder_image_size": 32, "image_size": 32,
    "autoencoder": {"kind": "patch_pca", "patch_size": 2, "latent_channels": 8},
    "unet": {
        "block_out_channels": [32, 32], "attention_levels": [1], "layers_per_block": 1, "num_heads": 2, "cross_attention_dim": 16,
    },
    "prediction_type": "sample", "num_steps": 20, "batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 2, "ema_decay": 0.9,
}  # fmt: skip


def pytest_itemcollected(item: pytest.Item) -> None:
    """Three workers of `pytest -n N --dist loadgroup` run this folder's tests, which mostly wait, each on a cluster of its own."""
    group = GROUPS.get(item.path.stem, "slurm")
    item.add_marker(pytest.mark.xdist_group(group))  # in a later hook xdist would not see it


@pytest.fixture(scope="session")
def _shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualCluster]:
    yield from run_cluster(tmp_path_factory.mktemp("slurm"), accounting=False)


@pytest.fixture
def cluster(_shared_cluster: VirtualCluster) -> Iterator[VirtualCluster]:
    """A cluster without accounting, as good as new: no jobs, all nodes up."""
    yield _shared_cluster
    _shared_cluster.clear()
    _shared_cluster.start_lost_nodes()


@pytest.fixture(scope="module")
def accounting_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualCluster]:
    """A cluster with an accounting database."""
    yield from run_cluster(tmp_path_factory.mktemp("slurm"), accounting=True)


def run_cluster(folder: Path, accounting: bool) -> Iterator[VirtualCluster]:
    missing = missing_programs(accounting)
    if missing:
        pytest.skip(f"Slurm{' with accounting' if accounting else ''} is not installed here: no {', '.join(missing)}")
    running = VirtualCluster(folder, NODES, accounting)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the drills' images, in shards, and their generator."""
    return made_once(tmp_path_factory, "prepared", _prepare)


def _prepare(folder: Path) -> None:
    shutil.copyfile(CONFIG, folder / "config.yaml")
    (folder / "generator").mkdir()  # the workflow refuses paths that do not exist
    run_here(folder, "snakemake", *SNAKEFILE, "--cores", "2", "--", "shards")
    training = json.dumps(GENERATOR)
    run_here(
        folder, "cdgmae", "views", "train-generator", "--settings", training, "--shards", "results/shards/demo", "--encoder", ENCODER,
        "--output", "trained", "--work", "work/generator", "--device", "cpu", "--threads", "1",
    )  # fmt: skip
    (folder / "generator").rmdir()
    (folder / "trained").rename(folder / "generator")
    shutil.rmtree(folder / ".snakemake")


@pytest.fixture(scope="session")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The views and the trainings as they come out when nothing happens."""

    def run(folder: Path) -> None:
        shutil.copytree(prepared, folder, dirs_exist_ok=True)
        encoders = [f"{results}/encoder.safetensors" for results in (TRAINING, SHORT_TRAINING)]
        run_here(folder, "snakemake", *SNAKEFILE, "--cores", "2", "--", *VIEWS, *encoders)

    return made_once(tmp_path_factory, "undisturbed", run)
