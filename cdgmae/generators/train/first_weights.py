"""What a generator's training begins with: random weights around a first stage, or another generator."""

from __future__ import annotations

from pathlib import Path

from cdgmae.generators.build import build_pipeline
from cdgmae.generators.generator_folder import load_pipeline, read_metadata
from cdgmae.generators.parts.patch_autoencoder import PatchAutoencoder
from cdgmae.generators.pipeline import LatentDiffusionPipeline
from cdgmae.generators.train.generator_batches import make_first_stage
from cdgmae.settings.views import AutoencoderSettings, GeneratorTrainingSettings
from cdgmae.storage.bags import Bags

WEIGHTS_ALONE = ("sample_size",)
"""Entries of a network's configuration that may differ: its weights serve any image size."""


def first_pipeline(settings: GeneratorTrainingSettings, embedding_dim: int, images: Bags, seed: int) -> LatentDiffusionPipeline:
    """The generator before its first step: of random weights drawn from `seed`, or a copy of that in `settings.start_from`.

    Raises:
        ValueError: if the folder to start from holds no generator, or one of other sizes, or the first stage does not fit.
    """
    if settings.start_from is None:
        return build_pipeline(settings, embedding_dim, make_first_stage(images, settings), seed)
    folder = Path(settings.start_from)
    given = load_pipeline(folder, read_metadata(folder))
    wanted = build_pipeline(settings, embedding_dim, given.autoencoder, seed)
    differences = [
        *(
            f"{part}: {difference}"
            for part in ("unet", "projector", "scheduler")
            for difference in _differences(given, wanted, part)
        ),
        *_first_stage_differences(given, settings.autoencoder),
    ]
    if differences:
        raise ValueError(
            f"start_from = {str(folder)!r} is another kind of generator than these settings describe ({'; '.join(differences[:3])}); "
            "give the settings that it was trained with, which stand in its cdgmae.json, or leave start_from out"
        )
    return given


def _differences(given: LatentDiffusionPipeline, wanted: LatentDiffusionPipeline, part: str) -> list[str]:
    here, there = (
        {
            key: value
            for key, value in getattr(pipeline, part).config.items()
            if not key.startswith("_") and key not in WEIGHTS_ALONE
        }
        for pipeline in (given, wanted)
    )
    return [
        f"{key} is {_plain(here.get(key))}, not {_plain(value)}"
        for key, value in there.items()
        if _plain(here.get(key)) != _plain(value)
    ]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _first_stage_differences(given: LatentDiffusionPipeline, wanted: AutoencoderSettings) -> list[str]:
    """A patch autoencoder of other patches, or another kind of first stage than the settings name."""
    stage = given.autoencoder
    kind = "none" if stage is None else "patch_pca" if isinstance(stage, PatchAutoencoder) else "folder"
    if kind != wanted.kind:
        return [f"autoencoder: kind is {kind}, not {wanted.kind}"]
    sizes = ("patch_size", "latent_channels") if isinstance(stage, PatchAutoencoder) else ()
    return [
        f"autoencoder: {key} is {stage.config[key]}, not {getattr(wanted, key)}"
        for key in sizes
        if stage.config[key] != getattr(wanted, key)
    ]
