"""Which device a job takes, in which precision, and that a GPU job never becomes a CPU job; GPUs are made up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cdgmae.commands.options import parse_runtime
from cdgmae.runtime import compute, environment
from cdgmae.runtime.compute import resolve_precision, start_compute
from cdgmae.runtime.devices import pick_device
from cdgmae.runtime.interrupts import TransientProblem
from cdgmae.settings.runtime import RuntimeSettings

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12\n"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[torch.device]]:
    """Make torch see so many GPUs; gives the list of those that become the current one."""

    def pretend(number: int, *, ranks: int = 1, rank: int = 0, bf16: bool = True) -> list[torch.device]:
        chosen: list[torch.device] = []
        result = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 2**30)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 and not including_emulation)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: result)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        return chosen

    return pretend


@pytest.fixture
def float32_rule() -> Iterator[Callable[[], tuple[str, bool]]]:
    """Reads torch's two switches, and puts them back."""

    def read() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    products, convolutions = read()
    yield read
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.mark.parametrize(
    "given",
    [{"SLURM_STEP_GPUS": "3"}, {"SLURM_JOB_GPUS": "0,1"}, {"SLURM_GPUS_ON_NODE": "2"}],
    ids=lambda given: next(iter(given)),
)
def test_a_gpu_that_slurm_gave_and_torch_does_not_see_is_refused(
    gpus: Callable[..., object], given: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpus(0)
    monkeypatch.setattr(environment, "DRIVER_FILE", tmp_path / "version")
    (tmp_path / "version").write_text(DRIVER)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    said = rf"Slurm gave this job a GPU \({next(iter(given))}=.*torch {torch.__version__[:4]}.*driver here is 550\.54\.15"
    with pytest.raises(TransientProblem, match=said) as caught:
        pick_device("auto")
    assert f"CUDA {torch.version.cuda}" in str(caught.value) or torch.version.cuda is None
    assert "say `device: cpu`" in str(caught.value)
    assert pick_device("cpu") == torch.device("cpu")


def test_without_a_gpu_from_slurm_auto_is_the_cpu_and_cuda_is_refused(
    gpus: Callable[..., object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpus(0)
    monkeypatch.setattr(environment, "DRIVER_FILE", tmp_path / "absent")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "0")
    assert pick_device("auto") == torch.device("cpu")
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")  # left over in a shell
    assert pick_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(
            TransientProblem, match=f"`device: {name}` was asked for, but torch sees none.*driver here is not loaded"
        ):
            pick_device(name)


def test_a_numbered_gpu_is_that_one_for_all_that_follows(gpus: Callable[..., list[torch.device]]) -> None:
    current = gpus(4)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    assert current == [torch.device("cuda", 1)]  # accelerate and all others that say only "cuda" get it
    assert pick_device("auto") == torch.device("cuda")
    with pytest.raises(ValueError, match=r"cuda:4, but torch sees 4 GPU\(s\), numbered from 0"):
        pick_device("cuda:4")


@pytest.mark.parametrize(("visible", "index"), [(8, 5), (1, 0)])
def test_a_rank_takes_the_gpu_of_its_number_or_the_only_one(
    gpus: Callable[..., list[torch.device]], visible: int, index: int
) -> None:
    current = gpus(visible, ranks=8, rank=5)
    assert pick_device("auto") == torch.device("cuda", index)
    assert current == [torch.device("cuda", index)]
    with pytest.raises(ValueError, match="say cuda, and each takes a GPU of its own"):
        pick_device("cuda:1")


def test_too_few_gpus_for_the_ranks_are_refused(gpus: Callable[..., object]) -> None:
    gpus(2, ranks=8, rank=0)
    with pytest.raises(ValueError, match=r"8 processes on this node, but torch sees 2 GPU\(s\)"):
        pick_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda1", "cuda:", "mps"])
def test_other_devices_are_refused_with_the_key(name: str) -> None:
    with pytest.raises(ValueError, match=f"device = '{name}': allowed: `auto`, `cpu`, `cuda` or `cuda:N`"):
        parse_runtime(None, device=name)


def test_auto_precision_follows_the_device(gpus: Callable[..., object]) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    gpus(1)
    assert [resolve_precision(name, cuda) for name in ("auto", "fp32", "fp16", "bf16")] == ["bf16", "fp32", "fp16", "bf16"]
    assert [resolve_precision(name, cpu) for name in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    gpus(1, bf16=False)
    assert resolve_precision("auto", cuda) == "fp32"
    with pytest.raises(ValueError, match="bf16: Tesla V100 does not compute in it; use fp16 or fp32"):
        resolve_precision("bf16", cuda)
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        resolve_precision("fp16", cpu)


def test_float32_means_the_same_for_products_and_convolutions_and_the_log_says_so_once(
    gpus: Callable[..., object], float32_rule: Callable[[], tuple[str, bool]], caplog: pytest.LogCaptureFixture
) -> None:
    gpus(1)
    compute._log_once.cache_clear()
    with caplog.at_level(logging.INFO, "cdgmae"):
        assert start_compute(RuntimeSettings(device="cuda")).precision == "bf16"
        assert float32_rule() == ("high", True)
        start_compute(RuntimeSettings(device="cuda"))
        assert start_compute(RuntimeSettings(device="cuda", precision="fp32")).precision == "fp32"
        assert float32_rule() == ("highest", False)
        assert start_compute(RuntimeSettings(device="cuda"), precision="bf16", exact=True).precision == "bf16"
        assert float32_rule() == ("highest", False)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert lines[0].startswith("computing on NVIDIA H100 (cuda, 80 GiB, CUDA ")
    assert "precision bf16 (float32 products and convolutions in TF32), torch " in lines[0]
    assert "precision fp32 (float32 products and convolutions without TF32)" in lines[1]


def test_a_cpu_keeps_its_arithmetic(float32_rule: Callable[[], tuple[str, bool]]) -> None:
    before = float32_rule()
    assert start_compute(RuntimeSettings(device="cpu", precision="bf16")).precision == "bf16"
    assert float32_rule() == before
