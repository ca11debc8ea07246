"""The training loop: resume, interruption, accumulation, failures, schedule."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from cdgmae.runtime.compute import Compute
from cdgmae.runtime.interrupts import Interrupted, OutOfDeviceMemory
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.tables import read_table
from cdgmae.training import loop
from cdgmae.training import metrics as metrics_module
from cdgmae.training.accelerator import open_accelerator, start_training_compute
from cdgmae.training.failures import FAILURE_FILE, USUAL_STEPS, LossWatch
from cdgmae.training.loop import Observer, TrainingResult, _update_ema, choose_micro_batches, train
from cdgmae.training.schedule import LoopSettings, learning_rate, parameter_groups
from cdgmae.training.session import METRICS_FOLDER
from cdgmae.training.state import STATE_PATTERN, TrainingState, load_state, save_state, state_path
from cdgmae.training.traced_memory import MemoryNeed

SETTINGS = LoopSettings(num_steps=30, learning_rate=1e-2, warmup_steps=5, weight_decay=0.1, ema_decay=0.9)


@pytest.fixture(autouse=True)
def _forget_precision() -> Iterator[None]:
    """A process trains with one precision; these tests are one process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Killed(BaseException):
    """Stands for `kill -9`: no handler of the loop may catch it and save."""


class RegressionTask:
    """A small network with dropout, so that a resumed run shows whether random draws are a function of the step."""

    batch_size = 8

    def __init__(
        self,
        die_at: int | None = None,
        signal_at: int | None = None,
        poison_at: int | None = None,
        factor: float = math.nan,
        dropout: float = 0.2,
    ) -> None:
        torch.manual_seed(3)
        self.model: nn.Module = nn.Sequential(nn.Linear(4, 16), nn.Dropout(dropout), nn.Linear(16, 1))
        self.die_at, self.signal_at, self.poison_at, self.factor = die_at, signal_at, poison_at, factor

    def batch(self, step: int, samples: range) -> dict[str, Tensor]:
        drawn = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return {"x": drawn[samples.start : samples.stop]}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        if step == self.die_at:
            raise Killed
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGUSR1)
        loss = (model(batch["x"]) - batch["x"].sum(dim=1, keepdim=True)).square().mean()
        return loss * self.factor if step == self.poison_at else loss

    def keys(self, step: int) -> list[str]:
        return [f"s{step}x{number}" for number in range(8)]

    def memory(self, precision: str) -> MemoryNeed:
        return MemoryNeed(fixed=1000, per_sample=100)


def run(
    task: RegressionTask,
    work: Path,
    settings: LoopSettings = SETTINGS,
    every: float = 0.0,
    observe: Observer | None = None,
    tracker_dir: Path | None = None,
    **machine: object,
) -> TrainingResult:
    runtime = RuntimeSettings(device="cpu", checkpoint_interval_seconds=every, **machine)  # type: ignore[arg-type]
    return train(task, settings, seed=1, work_dir=work, runtime=runtime, tracker_dir=tracker_dir, observe=observe)


def assert_same(first: TrainingResult, second: TrainingResult) -> None:
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert first.ema_state is not None
    assert second.ema_state is not None
    assert all(torch.equal(tensor, second.ema_state[name]) for name, tensor in first.ema_state.items())
    assert second.metrics["step"].to_pylist() == list(range(30))
    for column in ("step", "loss", "learning_rate", "grad_norm"):
        assert first.metrics.column(column).equals(second.metrics.column(column)), column


def test_killed_twice_and_resumed_equals_the_undisturbed_run(tmp_path: Path) -> None:
    undisturbed = run(RegressionTask(), tmp_path / "a")
    for step in (7, 19):
        with pytest.raises(Killed):
            run(RegressionTask(die_at=step), tmp_path / "b")
    assert_same(undisturbed, run(RegressionTask(), tmp_path / "b"))


@pytest.mark.parametrize("part_rows", [5, 6, 1000])
def test_metrics_have_neither_gaps_nor_double_rows_wherever_a_run_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_rows: int
) -> None:
    monkeypatch.setattr(metrics_module, "PART_ROWS", part_rows)
    undisturbed = run(RegressionTask(), tmp_path / "a", every=1e9)
    for step in (3, 10, 11, 12, 25, 29):
        with pytest.raises(Killed):
            run(RegressionTask(die_at=step), tmp_path / "b", every=1e9, checkpoint_interval_steps=5)
    assert_same(undisturbed, run(RegressionTask(), tmp_path / "b", every=1e9, checkpoint_interval_steps=5))


def test_metrics_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(RegressionTask(die_at=12), tmp_path)
    assert sum(read_table(path).num_rows for path in (tmp_path / METRICS_FOLDER).glob("*.parquet")) == 12


def test_signal_saves_state_and_the_next_run_goes_on(tmp_path: Path) -> None:
    undisturbed = run(RegressionTask(), tmp_path / "a")
    with pytest.raises(Interrupted, match=r"after step 13 of 30 \(SIGUSR1\)"):
        run(RegressionTask(signal_at=12), tmp_path / "b", every=1e9)
    assert_same(undisturbed, run(RegressionTask(), tmp_path / "b", every=1e9))


def test_last_states_are_kept_and_damaged_ones_fall_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = run(RegressionTask(), tmp_path / "a")
    with pytest.raises(Killed):
        run(RegressionTask(die_at=20), tmp_path / "b", every=1e9, checkpoint_interval_steps=4, keep_checkpoints=3)
    states = sorted((tmp_path / "b").glob(STATE_PATTERN))
    assert [path.stem for path in states] == ["state-000000012", "state-000000016", "state-000000020"]
    states[-1].write_bytes(b"torn")
    flipped = bytearray(states[-2].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    states[-2].write_bytes(flipped)
    steps: list[int] = []
    again = run(RegressionTask(), tmp_path / "b", observe=lambda step, _: steps.append(step))
    assert steps[0] == 13
    assert all(f"{state} is damaged" in caplog.text for state in states[1:])
    assert_same(undisturbed, again)


def test_no_flipped_bit_of_a_state_is_loaded(tmp_path: Path) -> None:
    draw, state = random.Random(0), TrainingState("id", 3, {"w": torch.arange(50.0)})
    for _ in range(40):
        save_state(tmp_path, state)
        path = state_path(tmp_path, 3)
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        assert load_state(tmp_path, "id") is None


def test_damaged_metrics_cost_their_rows_and_not_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Killed):
        run(RegressionTask(die_at=20), tmp_path, every=1e9, checkpoint_interval_steps=4)
    part = next((tmp_path / METRICS_FOLDER).glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-9])
    assert run(RegressionTask(), tmp_path).metrics["step"].to_pylist() == list(range(20, 30))
    assert f"{part} is damaged" in caplog.text


def test_state_of_other_settings_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(RegressionTask(die_at=5), tmp_path)
    other = LoopSettings(num_steps=30, learning_rate=2e-2)
    assert run(RegressionTask(), tmp_path, other).metrics.num_rows == 30
    assert load_state(tmp_path, "any") is None


def test_finished_training_is_saved_so_that_a_failure_to_write_results_costs_nothing(tmp_path: Path) -> None:
    first = run(RegressionTask(), tmp_path, every=1e9)
    steps: list[int] = []
    assert_same(first, run(RegressionTask(die_at=0), tmp_path, every=1e9, observe=lambda step, _: steps.append(step)))
    assert steps == []


def test_accumulation_over_micro_batches_gives_the_gradients_of_the_whole_batch(tmp_path: Path) -> None:
    whole = run(RegressionTask(dropout=0.0), tmp_path / "whole")
    parts = run(RegressionTask(dropout=0.0), tmp_path / "parts", micro_batch_size=3)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        torch.tensor(parts.metrics["loss"].to_pylist()), torch.tensor(whole.metrics["loss"].to_pylist()), atol=1e-5, rtol=1e-5
    )


def test_worker_processes_prepare_the_same_batches(tmp_path: Path) -> None:
    assert_same(run(RegressionTask(), tmp_path / "thread"), run(RegressionTask(), tmp_path / "processes", loader_workers=2))


@pytest.mark.slow
def test_compiled_model_trains_to_the_same_losses(tmp_path: Path) -> None:
    settings = LoopSettings(num_steps=6, learning_rate=1e-2)
    plain = run(RegressionTask(dropout=0.0), tmp_path / "a", settings)
    compiled = run(RegressionTask(dropout=0.0), tmp_path / "b", settings, compile=True)
    assert compiled.metrics["loss"].to_pylist() == pytest.approx(plain.metrics["loss"].to_pylist(), abs=1e-5)
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())


def test_bf16_follows_fp32_and_keeps_full_precision_weights(tmp_path: Path) -> None:
    full = run(RegressionTask(dropout=0.0), tmp_path / "fp32")
    AcceleratorState._reset_state(reset_partial_state=True)
    half = run(RegressionTask(dropout=0.0), tmp_path / "bf16", precision="bf16")
    assert half.metrics["loss"].to_pylist() == pytest.approx(full.metrics["loss"].to_pylist(), rel=0.05)
    assert half.metrics["loss"] != full.metrics["loss"]
    assert all(tensor.dtype == torch.float32 for tensor in half.model.state_dict().values())


def test_fp16_is_refused_on_a_cpu() -> None:
    with pytest.raises(ValueError, match="fp16 needs a GPU; use bf16 or fp32"):
        start_training_compute(RuntimeSettings(device="cpu", precision="fp16"))


def test_too_little_memory_names_the_micro_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    task = RegressionTask()
    monkeypatch.setattr(task, "loss", loss)
    with pytest.raises(OutOfDeviceMemory, match=r"Tried to allocate 2\.00 GiB\. Lower runtime\.micro_batch_size \(now 4\)"):
        run(task, tmp_path, micro_batch_size=4)


def test_the_average_stays_where_loss_scaling_skipped_the_step() -> None:
    model, average = nn.Linear(2, 1, bias=False), {"weight": torch.zeros(1, 2)}
    nn.init.ones_(model.weight)
    _update_ema(model, average, 0.75, torch.tensor(math.inf).isfinite())
    assert average["weight"].tolist() == [[0.0, 0.0]]
    plain = {"weight": torch.zeros(1, 2)}
    _update_ema(model, average, 0.75, torch.tensor(3.0).isfinite())
    _update_ema(model, plain, 0.75)
    assert average["weight"].tolist() == plain["weight"].tolist() == [[0.25, 0.25]]


def test_processes_wait_for_each_other_as_long_as_the_settings_say() -> None:
    accelerator = open_accelerator(RuntimeSettings(device="cpu", process_group_timeout_minutes=90))
    assert accelerator.init_handler.timeout == timedelta(minutes=90)


@pytest.mark.parametrize("factor", [math.nan, 1e6])
def test_bad_loss_stops_with_step_and_keys_and_keeps_the_last_state(tmp_path: Path, factor: float) -> None:
    settings = LoopSettings(num_steps=USUAL_STEPS + 30, learning_rate=1e-3, max_loss_ratio=10.0)
    poisoned = USUAL_STEPS + 9
    with pytest.raises(ValueError, match=rf"loss is .* at step {poisoned} \(learning rate .*s{poisoned}x0, s{poisoned}x1"):
        run(RegressionTask(poison_at=poisoned, factor=factor), tmp_path / "b", settings)
    report = json.loads((tmp_path / "b" / FAILURE_FILE).read_text())
    assert (report["step"], len(report["keys"])) == (poisoned, 8)
    assert report["learning_rate"] > 0
    again = run(RegressionTask(), tmp_path / "b", settings)
    assert again.metrics["loss"].equals(run(RegressionTask(), tmp_path / "clean", settings).metrics["loss"])


def test_explosions_are_judged_alike_after_a_resume() -> None:
    watch = LossWatch(2.0, [])
    assert all(watch.problem(1.0) is None for _ in range(USUAL_STEPS - 1))
    assert watch.problem(50.0) is None  # too early to know what is usual
    assert LossWatch(2.0, watch.last_losses).problem(2.9) is None
    assert "over 2 times the 1.49" in (LossWatch(2.0, watch.last_losses).problem(3.1) or "")
    assert LossWatch(None, watch.last_losses).problem(1e9) is None


def test_tracker_mirrors_the_metrics_and_goes_on_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for die_at in (20, None):
        try:
            run(RegressionTask(die_at=die_at), tmp_path / "w", trackers=["tensorboard"], tracker_dir=tmp_path / "logs")
        except Killed:
            continue
    events = EventAccumulator(str(tmp_path / "logs/tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(30))


def test_a_tracker_that_is_not_installed_is_refused_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="trackers wandb: not installed; `pip install wandb`, or leave them out"):
        start_training_compute(RuntimeSettings(device="cpu", trackers=["wandb"]))


def test_learning_rate_warms_up_from_zero_then_follows_the_cosine() -> None:
    settings = LoopSettings(num_steps=100, learning_rate=1.0, min_learning_rate=0.1, warmup_steps=10)
    assert [learning_rate(step, settings) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert learning_rate(55, settings) == pytest.approx(0.55)
    assert learning_rate(100, settings) == pytest.approx(0.1)
    assert learning_rate(50, LoopSettings(100, 1.0, schedule="constant")) == 1.0


def test_weight_decay_spares_vectors_and_biases_and_skips_frozen_parameters() -> None:
    from cdgmae import CrossViewMAE

    plain, decayed = parameter_groups(CrossViewMAE(), 0.05)
    assert (len(plain["params"]), plain["weight_decay"]) == (151, 0.0)
    assert (len(decayed["params"]), decayed["weight_decay"]) == (77, 0.05)


def test_a_gpu_takes_as_much_as_fits_in_equal_parts_and_a_cpu_its_whole_share(monkeypatch: pytest.MonkeyPatch) -> None:
    task, gpu = RegressionTask(), Compute(torch.device("cuda", 0), "bf16")
    for memory, sizes in ((2200, [8]), (1700, [4, 4]), (1500, [2] * 4), (1300, [1] * 8)):
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda _, total=memory: type("Card", (), {"total_memory": total})
        )
        assert [len(part) for part in choose_micro_batches(task, RuntimeSettings(), gpu)] == sizes
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: type("Card", (), {"total_memory": 1000}))
    with pytest.raises(ValueError, match=r"set runtime\.micro_batch_size to 1"):
        choose_micro_batches(task, RuntimeSettings(), gpu)
    assert choose_micro_batches(task, RuntimeSettings(micro_batch_size=2), gpu) == [range(n, n + 2) for n in (0, 2, 4, 6)]
    assert choose_micro_batches(task, RuntimeSettings(), Compute(torch.device("cpu"), "fp32")) == [range(8)]


def test_loader_processes_start_before_the_accelerator_joins_a_process_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for name in ("load_micro_batches", "open_accelerator"):
        original = getattr(loop, name)
        monkeypatch.setattr(
            loop, name, lambda *args, name=name, original=original, **kwargs: (order.append(name), original(*args, **kwargs))[1]
        )
    run(RegressionTask(), tmp_path, loader_workers=1)
    assert order == ["load_micro_batches", "open_accelerator"]
