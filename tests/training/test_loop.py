"""The training loop: resume, interruption, schedule."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cdgmae.runtime.interrupts import Interrupted
from cdgmae.training.loop import TrainingResult, train
from cdgmae.training.schedule import LoopSettings, learning_rate, parameter_groups
from cdgmae.training.state import STATE_FILE, load_state

CPU = torch.device("cpu")
SETTINGS = LoopSettings(num_steps=30, learning_rate=1e-2, warmup_steps=5, weight_decay=0.1, ema_decay=0.9)


class Killed(BaseException):
    """Stands for `kill -9`: no handler of the loop may catch it and save."""


class RegressionTask:
    """A small network with dropout, so that a resumed run shows whether random draws are a function of the step."""

    def __init__(self, die_at: int | None = None, signal_at: int | None = None, poison_at: int | None = None) -> None:
        torch.manual_seed(3)
        self.model: nn.Module = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.2), nn.Linear(16, 1))
        self.die_at, self.signal_at, self.poison_at = die_at, signal_at, poison_at

    def batch(self, step: int) -> dict[str, Tensor]:
        return {"x": torch.randn(8, 4, generator=torch.Generator().manual_seed(step))}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        if step == self.die_at:
            raise Killed
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGUSR1)
        loss = (model(batch["x"]) - batch["x"].sum(dim=1, keepdim=True)).square().mean()
        return loss * math.nan if step == self.poison_at else loss


def run(task: RegressionTask, work: Path, settings: LoopSettings = SETTINGS, every: float = 0.0) -> TrainingResult:
    return train(task, settings, seed=1, work_dir=work, device=CPU, checkpoint_interval_seconds=every)


def same(first: TrainingResult, second: TrainingResult) -> None:
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert first.ema_state is not None
    assert second.ema_state is not None
    assert all(torch.equal(tensor, second.ema_state[name]) for name, tensor in first.ema_state.items())
    for column in ("step", "loss", "learning_rate", "grad_norm"):
        assert first.metrics.column(column).equals(second.metrics.column(column)), column


def test_killed_twice_and_resumed_equals_the_undisturbed_run(tmp_path: Path) -> None:
    undisturbed = run(RegressionTask(), tmp_path / "a")
    for step in (7, 19):
        with pytest.raises(Killed):
            run(RegressionTask(die_at=step), tmp_path / "b")
    same(undisturbed, run(RegressionTask(), tmp_path / "b"))


def test_signal_saves_state_and_the_next_run_goes_on(tmp_path: Path) -> None:
    undisturbed = run(RegressionTask(), tmp_path / "a")
    with pytest.raises(Interrupted, match=r"after step 13 of 30 \(SIGUSR1\)"):
        run(RegressionTask(signal_at=12), tmp_path / "b", every=1e9)
    same(undisturbed, run(RegressionTask(), tmp_path / "b", every=1e9))


def test_state_of_other_settings_or_a_torn_file_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(RegressionTask(die_at=5), tmp_path)
    other = LoopSettings(num_steps=30, learning_rate=2e-2)
    assert run(RegressionTask(), tmp_path, other).metrics.num_rows == 30
    (tmp_path / STATE_FILE).write_bytes(b"torn")
    assert load_state(tmp_path, "any") is None


def test_loss_that_is_not_finite_stops_with_step_and_keeps_the_last_state(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loss is nan at step 9"):
        run(RegressionTask(poison_at=9), tmp_path)
    same(run(RegressionTask(), tmp_path / "clean"), run(RegressionTask(), tmp_path))


def test_learning_rate_warms_up_from_zero_then_follows_the_cosine() -> None:
    settings = LoopSettings(num_steps=100, learning_rate=1.0, min_learning_rate=0.1, warmup_steps=10)
    assert [learning_rate(step, settings) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert learning_rate(55, settings) == pytest.approx(0.55)
    assert learning_rate(100, settings) == pytest.approx(0.1)
    assert learning_rate(50, LoopSettings(100, 1.0, schedule="constant")) == 1.0


def test_weight_decay_spares_vectors_and_biases_and_skips_frozen_parameters() -> None:
    from cdgmae.models import CrossViewMAE

    plain, decayed = parameter_groups(CrossViewMAE(), 0.05)
    assert (len(plain["params"]), plain["weight_decay"]) == (151, 0.0)
    assert (len(decayed["params"]), decayed["weight_decay"]) == (77, 0.05)
