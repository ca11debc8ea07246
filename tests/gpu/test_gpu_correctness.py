"""`pytest -m gpu`: every stage on a GPU against the CPU; each number keeps within its bound."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from perf.gpu import correctness, trainings
from perf.gpu.findings import CHECKS, CORRECT, Bench
from perf.gpu_checks import draw_bench

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]
NAMES = [check.name for check in CHECKS.values() if check.kind == CORRECT]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    yield draw_bench("cuda", False, tmp_path_factory.mktemp("gpu"))
    torch.cuda.empty_cache()


def test_there_is_a_check_of_every_stage() -> None:
    assert {correctness.masks.__name__, trainings.training_command.__name__} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_gpu_computes_what_the_cpu_computes(bench: Bench, name: str) -> None:
    bench.found.clear()
    CHECKS[name].run(bench)
    assert bench.found
    assert [finding for finding in bench.found if finding.met is False] == []
