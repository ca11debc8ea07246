"""One pre-training run: from bags of views to `encoder.safetensors`."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from cdgmae import __version__
from cdgmae.models.encoders.checkpoints import write_encoder, write_model
from cdgmae.models.onednn import use_onednn
from cdgmae.pretrain.batches import BagBatches, open_bags
from cdgmae.pretrain.panels import PanelPainter
from cdgmae.pretrain.task import PretrainTask, build_model, loop_settings
from cdgmae.runtime.distribution import is_main_process
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.settings.runtime import DEFAULT_RUNTIME, RuntimeSettings
from cdgmae.storage.files.atomic import atomic_folder, write_text
from cdgmae.storage.files.publishing import once_recorded
from cdgmae.storage.image_shards import index_path
from cdgmae.storage.tables import file_sha256, write_table
from cdgmae.training.accelerator import start_training_compute
from cdgmae.training.loop import TrainingResult, remove_work, train
from cdgmae.training.metrics import METRICS_SCHEMA

RUN_METRICS_SCHEMA = pa.schema(
    [METRICS_SCHEMA.field("step"), pa.field("epoch", pa.float64(), nullable=False), *list(METRICS_SCHEMA)[1:]]
)
"""`METRICS_SCHEMA` with the epoch (fractional, at the start of the step) as second column."""

PANELS_FOLDER = "panels"


def run_pretrain(
    settings: PretrainRunSettings,
    seed: int,
    shard_tars: Sequence[Path],
    view_tars: Sequence[Path],
    output: Path,
    work_dir: Path,
    runtime: RuntimeSettings = DEFAULT_RUNTIME,
    label: str = "pretrain",
    *,
    score_tables: Sequence[Path] = (),
    tracker_dir: Path | None = None,
) -> dict[str, object]:
    """Pre-train one run with one seed.

    Writes `model.safetensors`, `config.json`, `metrics.parquet`, `panels/` and, last, `encoder.safetensors` into `output`. Under a
    launcher every process calls this with the same arguments; the main process writes.

    Args:
        settings: The run.
        seed: This run's seed: weights, order, views, masks.
        shard_tars: Shards of the real images.
        view_tars: Shards of the view source; empty for sources without files.
        output: Folder of the declared results.
        work_dir: Undeclared folder for the training state, shared by all processes; found again after a failure, removed at the end.
        runtime: How to run here.
        label: Name of the run in progress lines and trackers.
        score_tables: Tables of stage `consistency`, for a run that filters or weighs views.
        tracker_dir: Folder for the trackers of `runtime`; None: no trackers.

    Returns:
        steps, first and last loss (means over up to 20 steps), bags and the encoder's path; empty beside the main process.

    Raises:
        ValueError: if shards are incomplete, bags are too few, or the loss is not finite or explodes.
        Interrupted: if asked to stop; run it again to go on.
    """
    compute = start_training_compute(runtime)
    inputs = {
        f"{path.parent.name}/{path.name}": file_sha256(index_path(path)) for path in (*shard_tars, *view_tars, *score_tables)
    }
    local_folder = Path(os.path.expandvars(runtime.local_copy)) if runtime.local_copy else None
    store = open_bags(settings, shard_tars, view_tars, score_tables, local_folder)
    batches = BagBatches(store, settings, seed)
    model = build_model(settings, seed)
    if compute.device.type == "cpu":
        use_onednn(model)
    task, loop = PretrainTask(batches, model, compiled=runtime.compile), loop_settings(settings, batches.steps_per_epoch)
    painter = PanelPainter(task, loop.num_steps, settings.num_panels, work_dir / PANELS_FOLDER)
    result = train(
        task, loop, seed=seed, work_dir=work_dir, runtime=runtime, tracker_dir=tracker_dir, identity=f"{settings.digest()}|{sorted(inputs.values())}",
        label=label, observe=painter,
    )  # fmt: skip
    if not is_main_process():
        return {}
    config = {"settings": settings.model_dump(mode="json"), "seed": seed, "inputs": inputs, "num_bags": len(store)}
    copy_panels(work_dir / PANELS_FOLDER, output / PANELS_FOLDER)
    write_results(output, result, settings, config, batches.steps_per_epoch)
    losses = result.metrics.column("loss").to_pylist()
    window = min(20, math.ceil(len(losses) / 2))
    summary = {
        "steps": len(losses),
        "bags": len(store),
        "bags_left_out": store.bags_left_out,
        "first_loss": sum(losses[:window]) / window,
        "last_loss": sum(losses[-window:]) / window,
        "encoder": str(output / "encoder.safetensors"),
    }
    once_recorded(partial(remove_work, work_dir))
    return summary


def copy_panels(painted: Path, output: Path) -> None:
    """Put the panels of a finished run beside its results."""
    with atomic_folder(output) as folder:
        for panel in sorted(painted.glob("*.png")):
            shutil.copyfile(panel, folder / panel.name)


def write_results(
    output: Path, result: TrainingResult, settings: PretrainRunSettings, config: Mapping[str, object], steps_per_epoch: int
) -> None:
    """Write a run's declared files; `encoder.safetensors`, which later stages wait for, comes last.

    With `ema_decay` the weights are their moving average.
    """
    header = {"version": __version__, "settings": settings.digest(), "seed": str(config["seed"])}
    state = result.ema_state or result.model.state_dict()
    write_model(output / "model.safetensors", state, header)
    write_text(output / "config.json", json.dumps({**config, "version": __version__}, indent=2, sort_keys=True) + "\n")
    epochs = pa.array([step / steps_per_epoch for step in result.metrics["step"].to_pylist()], pa.float64())
    metrics = result.metrics.append_column("epoch", epochs)
    write_table(output / "metrics.parquet", metrics, RUN_METRICS_SCHEMA, settings_digest=settings.digest())
    write_encoder(output / "encoder.safetensors", state, settings.vit, header)
