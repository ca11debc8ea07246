"""Resource classes of a profile, and the sbatch line of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdgmae.cluster.classes import PROBE_MINUTES, ResourceClass, read_classes
from cdgmae.cluster.probe import submit_line

ROOT = Path(__file__).parents[2]


def write_profile(folder: Path, text: str) -> Path:
    (folder / "config.yaml").write_text(text)
    return folder


def test_the_shipped_profile_has_one_class_for_cpus_and_one_per_size_of_gpu_job() -> None:
    classes = read_classes(ROOT / "workflow/profiles/slurm")
    assert [found.rules for found in classes] == [
        ("default-resources",),
        ("pretrain_encoder", "train_generator"),
        ("make_views", "embed_images", "score_views", "propagate_labels"),
    ]
    assert [found.resources["mem_mb"] for found in classes] == [4000, 64000, 32000]
    assert all(found.resources["runtime"] == PROBE_MINUTES for found in classes)


def test_resources_are_read_as_snakemake_reads_them(tmp_path: Path) -> None:
    profile = write_profile(
        tmp_path,
        "executor: slurm\n"
        "default-resources: {slurm_partition: cpu, mem_mb: 1000 * attempt, runtime: 2h}\n"
        "set-threads: {big: 4}\n"
        "set-resources:\n"
        "  big: {mem: 2GB, runtime: 5}\n"
        "  signalled: {slurm_extra: \"'--signal=USR1@600 --exclusive'\"}\n",
    )
    plain, big, signalled = read_classes(profile)
    assert plain.resources == {"slurm_partition": "cpu", "mem_mb": 1000, "runtime": PROBE_MINUTES}
    assert (big.resources["mem_mb"], big.resources["runtime"], big.threads) == (2000, 5, 4)
    assert signalled.resources["slurm_extra"] == "--exclusive"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs: 3\n", "has no line `executor: slurm`"),
        ("executor: slurm\ndefault-resources: {mem_mb: 1GB}\n", "the resources of default-resources cannot be evaluated"),
        ("executor: slurm\nset-resources: 3\n", "set-resources must be a mapping"),
    ],
)
def test_a_profile_that_makes_no_sense_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_classes(write_profile(tmp_path, text))


def test_a_folder_without_a_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds neither of profile\.yaml, config\.yaml"):
        read_classes(tmp_path)


def test_the_submit_line_is_the_executors() -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    wanted = {"slurm_account": "lab", "slurm_partition": "gpu", "mem_mb": 100, "runtime": 10, "gres": "gpu:2", "qos": "short"}
    line = submit_line(ResourceClass(("a",), wanted, 3), "name", Path("log.txt"), Path("/work"))
    assert line[0] == "sbatch"
    for option in ("--gres=gpu:2", "--qos=short", "--cpus-per-task=3"):
        assert option in line
    assert [line[line.index(flag) + 1] for flag in ("-A", "-p", "--mem", "-t", "-D")] == ["lab", "gpu", "100", "10", "/work"]


def test_resources_that_the_executor_refuses_are_named() -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    with pytest.raises(ValueError, match="refuses the resources of train"):
        submit_line(ResourceClass(("train",), {"mpi": "srun"}, 1), "name", Path("log.txt"), Path("/work"))
