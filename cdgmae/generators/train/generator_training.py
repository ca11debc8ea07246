"""Training of a small latent diffusion model on this project's own shards."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from cdgmae import __version__
from cdgmae.generators.build import component_weights
from cdgmae.generators.generator_folder import read_metadata, write_generator
from cdgmae.generators.pipeline import LatentDiffusionPipeline
from cdgmae.generators.train.denoising_task import Denoiser, GeneratorTask
from cdgmae.generators.train.first_weights import first_pipeline
from cdgmae.generators.train.generator_batches import embeddings_to_whiten_with, split
from cdgmae.generators.train.latent_cache import fill_cache
from cdgmae.generators.train.monitor import Monitor, copy_findings
from cdgmae.models.encoders.by_name import Encoder, weights_digest
from cdgmae.models.encoders.projected_encoder import load_conditioning_encoder
from cdgmae.runtime.distribution import is_main_process
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.runtime import DEFAULT_RUNTIME, RuntimeSettings
from cdgmae.settings.views import GeneratorTrainingSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.files.atomic import atomic_folder
from cdgmae.storage.files.publishing import once_recorded
from cdgmae.storage.image_shards import index_path
from cdgmae.storage.tables import file_sha256, write_table
from cdgmae.training.accelerator import open_accelerator, start_training_compute
from cdgmae.training.loop import TrainingResult, remove_work, train
from cdgmae.training.metrics import METRICS_SCHEMA
from cdgmae.training.schedule import LoopSettings

METRICS_FILE = "metrics.parquet"
LATENTS_FOLDER = "latents"


def train_generator(
    settings: GeneratorTrainingSettings,
    seed: int,
    shard_tars: list[Path],
    encoder_settings: EncoderSettings,
    output: Path,
    work_dir: Path,
    runtime: RuntimeSettings = DEFAULT_RUNTIME,
    *,
    tracker_dir: Path | None = None,
) -> dict[str, Any]:
    """Train a generator and write its folder.

    Latents and embeddings come first and are kept in `work_dir`. Under a launcher every process calls this with the same arguments.

    Args:
        settings: What to train.
        seed: Root of every random draw.
        shard_tars: Image shards of the data set.
        encoder_settings: Frozen conditioning encoder.
        output: The generator folder; appears whole or not at all.
        work_dir: Latents and training state, shared by all processes; found again after an interruption, removed at the end.
        runtime: How to run here.
        tracker_dir: Folder for the trackers of `runtime`; None: no trackers.

    Returns:
        The job's result: folder, digest, steps, images, parameters, final loss (mean of the last tenth); empty beside the main process.

    Raises:
        Interrupted: after a signal, with the finished latents and the state saved.
        ValueError: if the shards hold no usable image, the first stage does not fit, or the loss is not finite.
    """
    start_training_compute(runtime)
    inputs = {str(index_path(path)): file_sha256(index_path(path)) for path in shard_tars}
    started = {folder: read_metadata(Path(folder)).digest for folder in (settings.start_from,) if folder is not None}
    device = open_accelerator(runtime).device  # under a launcher each process has its own
    images, encoder = Bags(shard_tars).usable(), load_conditioning_encoder(encoder_settings, device=device)
    pipeline = first_pipeline(settings, encoder.embed_dim, images, seed)
    if pipeline.autoencoder is not None:
        pipeline.autoencoder.to(device)
    cache = fill_cache(
        work_dir / LATENTS_FOLDER, _latents_identity(settings, pipeline, encoder, inputs.values(), seed), images, encoder, pipeline,
        settings, device, seed=seed, log_interval_seconds=runtime.log_interval_seconds,
    )  # fmt: skip
    if settings.whiten_condition:
        pipeline.projector.whiten(embeddings_to_whiten_with(cache))
    examples = split(cache, settings.monitoring.held_out_fraction if settings.monitoring else 0.0, seed)
    model = Denoiser(pipeline.unet, pipeline.projector)
    weights_C = component_weights(pipeline.autoencoder, settings.spread_weighting)
    task = GeneratorTask(model, pipeline.scheduler, examples, settings, seed, weights_C)
    monitor = Monitor(task, pipeline, images, settings.monitoring, work_dir) if settings.monitoring else None
    result = train(
        task, _loop_settings(settings), seed=seed, work_dir=work_dir, runtime=runtime, tracker_dir=tracker_dir, label="generator", observe=monitor,
        identity=f"{settings.digest()}|{encoder.digest}|{sorted(inputs.values())}|{sorted(started.values())}",
    )  # fmt: skip
    if not is_main_process():
        return {}
    model.load_state_dict(result.ema_state or result.model.state_dict())
    if monitor is not None:
        model.to(device)
        monitor.look(settings.num_steps, "averaged", "averaged")
    made_from = {"inputs": {**inputs, **started}, "settings": settings.model_dump(mode="json")}
    provenance = {"version": __version__, "seed": seed, **made_from}
    digest = _write(output, pipeline.to("cpu"), result, settings, encoder_settings, encoder.digest, provenance, work_dir)
    once_recorded(partial(remove_work, work_dir))
    return {"output": str(output), "digest": digest, "images": len(images), **_outcome(pipeline, result)}


def _outcome(pipeline: LatentDiffusionPipeline, result: TrainingResult) -> dict[str, Any]:
    """Steps, parameters of the denoiser, and the mean loss of the last tenth."""
    losses = result.metrics["loss"].to_pylist()
    tail = losses[-max(1, len(losses) // 10) :]
    parameters = sum(parameter.numel() for parameter in pipeline.unet.parameters())
    return {"steps": len(losses), "parameters": parameters, "final_loss": sum(tail) / len(tail)}


def _latents_identity(
    settings: GeneratorTrainingSettings, pipeline: LatentDiffusionPipeline, encoder: Encoder, inputs: Iterable[str], seed: int
) -> str:
    """What latents and embeddings depend on: changing the U-Net or the schedule leaves them as they are."""
    stage = pipeline.autoencoder
    stage_digest = "none" if stage is None else f"{weights_digest(stage.state_dict().items())}*{pipeline.scaling_factor}"
    sizes = (settings.image_size, settings.encoder_image_size, settings.horizontal_flip, settings.cache_precision)
    crops = (settings.target_crops, settings.target_crop_side, seed) if settings.target_crops else ()
    return f"{stage_digest}|{encoder.digest}|{sizes}|{crops}|{sorted(inputs)}"


def _loop_settings(settings: GeneratorTrainingSettings) -> LoopSettings:
    return LoopSettings(
        num_steps=settings.num_steps, learning_rate=settings.learning_rate, warmup_steps=settings.warmup_steps,
        schedule=settings.schedule, weight_decay=settings.weight_decay, ema_decay=settings.ema_decay,
    )  # fmt: skip


def _write(
    output: Path,
    pipeline: LatentDiffusionPipeline,
    result: TrainingResult,
    settings: GeneratorTrainingSettings,
    encoder_settings: EncoderSettings,
    encoder_digest: str,
    provenance: dict[str, Any],
    work_dir: Path,
) -> str:
    """Write the generator folder; returns the generator's digest."""
    with atomic_folder(output) as folder:
        metadata = write_generator(
            folder, pipeline, encoder_settings, encoder_digest, image_size=settings.image_size,
            encoder_image_size=settings.encoder_image_size, provenance=provenance, half=settings.weights_precision == "fp16",
        )  # fmt: skip
        write_table(folder / METRICS_FILE, result.metrics, METRICS_SCHEMA, settings_digest=settings.digest())
        copy_findings(work_dir, folder, settings)
    return metadata.digest
