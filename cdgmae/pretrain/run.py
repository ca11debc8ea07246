"""One pre-training run: from bags of views to `encoder.safetensors`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor, nn

from cdgmae import __version__
from cdgmae.models.checkpoints import write_encoder, write_model
from cdgmae.models.cross_view_mae import CrossViewMAE, CrossViewOutput
from cdgmae.models.normalisation import normalise
from cdgmae.pretrain.batches import BagBatches
from cdgmae.runtime.seeds import integer_seed
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.atomic import write_text
from cdgmae.storage.bags import BagStore
from cdgmae.storage.picture_shards import index_path
from cdgmae.storage.tables import file_sha256, write_table
from cdgmae.training.loop import METRICS_SCHEMA, TrainingResult, remove_work, train
from cdgmae.training.schedule import LoopSettings

RUN_METRICS_SCHEMA = pa.schema(
    [METRICS_SCHEMA.field("step"), pa.field("epoch", pa.float64(), nullable=False), *list(METRICS_SCHEMA)[1:]]
)
"""`METRICS_SCHEMA` with the epoch (fractional, at the start of the step) as second column."""

LR_REFERENCE_BATCH = 256
"""Bags per step to which `base_learning_rate` refers."""


class PretrainTask:
    """The cross-view MAE objective on batches of bags; see `cdgmae.training.loop.TrainingTask`."""

    def __init__(self, batches: BagBatches, model: CrossViewMAE) -> None:
        self.batches = batches
        self.model: nn.Module = model

    def batch(self, step: int) -> dict[str, Tensor]:
        """uint8 views of one step."""
        return {"views": self.batches.views(step)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """Reconstruction loss; pixels are scaled and normalised on the device."""
        views_BVHWC = batch["views"]
        images = views_BVHWC.permute(0, 1, 4, 2, 3).float().div(255.0)
        images_BVCHW = normalise(images.flatten(0, 1)).reshape(images.shape)
        anchors = images_BVCHW[:, 1:] if images_BVCHW.shape[1] > 1 else None
        output: CrossViewOutput = model(images_BVCHW[:, 0], anchors)
        return output.loss


def build_model(settings: PretrainRunSettings, seed: int) -> CrossViewMAE:
    """The untrained model of a run; its weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer_seed(seed, "pretrain", "weights"))
        return CrossViewMAE(
            img_size=settings.image_size,
            patch_size=settings.patch_size,
            embed_dim=settings.embed_dim,
            depth=settings.depth,
            num_heads=settings.num_heads,
            decoder_embed_dim=settings.decoder_embed_dim,
            decoder_depth=settings.decoder_depth,
            decoder_num_heads=settings.decoder_num_heads,
            norm_pix_loss=settings.norm_pix_loss,
            target_masking_ratio=settings.target_masking_ratio,
            anchor_masking_ratio=settings.anchor_masking_ratio,
        )


def loop_settings(settings: PretrainRunSettings, steps_per_epoch: int) -> LoopSettings:
    """Schedule of a run: peak = base_learning_rate * effective_batch_size / 256 (spec cross_view_mae 2.2)."""
    return LoopSettings(
        num_steps=steps_per_epoch * settings.epochs,
        learning_rate=settings.base_learning_rate * settings.effective_batch_size / LR_REFERENCE_BATCH,
        min_learning_rate=settings.min_learning_rate,
        warmup_steps=settings.warmup_epochs * steps_per_epoch,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        clip_grad_norm=settings.clip_grad_norm,
    )


def run_pretrain(
    settings: PretrainRunSettings,
    seed: int,
    shard_tars: Sequence[Path],
    view_tars: Sequence[Path],
    output: Path,
    work_dir: Path,
    *,
    device: torch.device,
    precision: str = "fp32",
    log_interval_seconds: float = 30.0,
    checkpoint_interval_seconds: float = 900.0,
) -> dict[str, object]:
    """Pre-train one run with one seed.

    Writes `model.safetensors`, `config.json`, `metrics.parquet` and, last, `encoder.safetensors` into `output`.

    Args:
        settings: The run.
        seed: This run's seed: weights, order, views, masks.
        shard_tars: Shards of the real pictures.
        view_tars: Shards of the view source; empty for sources without files.
        output: Folder of the declared results.
        work_dir: Undeclared folder for the training state; found again after a failure, removed at the end.
        device: Where to train.
        precision: `fp32`, `bf16` or `fp16`.
        log_interval_seconds: Time between two progress lines.
        checkpoint_interval_seconds: Time between two saved states.

    Returns:
        steps, first and last loss (means over up to 20 steps), number of bags and the encoder's path.

    Raises:
        ValueError: if shards are incomplete, bags are too few, or the loss is not finite.
        Interrupted: if asked to stop; run it again to go on.
    """
    store = BagStore(shard_tars, view_tars, min_views=views_needed(settings))
    batches = BagBatches(store, settings, seed)
    inputs = {f"{path.parent.name}/{path.name}": file_sha256(index_path(path)) for path in (*shard_tars, *view_tars)}
    result = train(
        PretrainTask(batches, build_model(settings, seed)), loop_settings(settings, batches.steps_per_epoch),
        seed=seed, work_dir=work_dir, device=device, precision=precision, label="pretrain",
        identity=f"{settings.digest()}|{sorted(inputs.values())}",
        log_interval_seconds=log_interval_seconds, checkpoint_interval_seconds=checkpoint_interval_seconds,
    )  # fmt: skip
    config = {"settings": settings.model_dump(mode="json"), "seed": seed, "inputs": inputs, "num_bags": len(store)}
    write_results(output, result, settings, config, batches.steps_per_epoch)
    remove_work(work_dir)
    losses = result.metrics.column("loss").to_pylist()
    window = min(20, math.ceil(len(losses) / 2))
    return {
        "steps": len(losses),
        "bags": len(store),
        "first_loss": sum(losses[:window]) / window,
        "last_loss": sum(losses[-window:]) / window,
        "encoder": str(output / "encoder.safetensors"),
    }


def views_needed(settings: PretrainRunSettings) -> int:
    """Generated views a bag must have to serve a run: its anchors, plus one if the target is always generated."""
    if settings.pretext != "cross_view":
        return 0
    return settings.num_anchors + (settings.target_view == "generated")


def write_results(
    output: Path, result: TrainingResult, settings: PretrainRunSettings, config: Mapping[str, object], steps_per_epoch: int
) -> None:
    """Write a run's declared files; `encoder.safetensors`, which later stages wait for, comes last."""
    facts = {"version": __version__, "settings": settings.digest(), "seed": str(config["seed"])}
    state = result.model.state_dict()
    write_model(output / "model.safetensors", state, facts)
    write_text(output / "config.json", json.dumps({**config, "version": __version__}, indent=2, sort_keys=True) + "\n")
    epochs = pa.array([step / steps_per_epoch for step in range(result.metrics.num_rows)], pa.float64())
    metrics = result.metrics.append_column("epoch", epochs)
    write_table(output / "metrics.parquet", metrics, RUN_METRICS_SCHEMA, settings_digest=settings.digest())
    write_encoder(output / "encoder.safetensors", state, settings.vit, facts)
