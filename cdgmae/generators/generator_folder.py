"""A generator on disk: the pipeline's folder, the conditioning encoder's weights, and where both came from.

The folder stands alone: sampling needs nothing else, however the generator was made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.logging import disable_progress_bar
from torch import Tensor, nn

from cdgmae.generators.pipeline import LatentDiffusionPipeline
from cdgmae.models.encoders.by_name import Encoder, weights_digest
from cdgmae.models.encoders.checkpoint_layouts import check_finite
from cdgmae.models.encoders.frozen_encoder import given_device
from cdgmae.models.encoders.projected_encoder import load_conditioning_encoder
from cdgmae.models.normalisation import normalise
from cdgmae.names import how_to_remake
from cdgmae.settings.encoder import EncoderSettings

METADATA_FILE = "cdgmae.json"


@dataclass(frozen=True, slots=True)
class GeneratorMetadata:
    """What `cdgmae.json` in a generator folder says.

    Attributes:
        digest: Digest of all weights, the encoder's included, and of the noise schedule.
        encoder: The conditioning encoder; a file name without folder lies inside the generator folder. None for an imported generator
            whose encoder was not named.
        encoder_digest: Digest of the encoder's weights.
        encoder_image_size: Side in pixels at which the encoder sees an image.
        image_size: Side of a generated view in pixels.
        provenance: Settings, inputs and package version; for people and reports.
    """

    digest: str
    encoder: EncoderSettings | None
    encoder_digest: str
    encoder_image_size: int
    image_size: int
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Generator:
    """A loaded generator: pipeline and frozen conditioning encoder on one device."""

    pipeline: LatentDiffusionPipeline
    encoder: Encoder
    metadata: GeneratorMetadata


def generator_digest(pipeline: LatentDiffusionPipeline, encoder_digest: str) -> str:
    """Digest of everything that shapes a view besides the sampling settings."""
    parts: dict[str, Tensor] = {}
    for name in ("unet", "projector", "autoencoder"):
        module = getattr(pipeline, name)
        if module is not None:
            parts.update({f"{name}.{key}": tensor for key, tensor in module.state_dict().items()})
    config = pipeline.scheduler.config
    schedule = [config[key] for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")]
    return weights_digest([*parts.items(), (f"{schedule}|{pipeline.scaling_factor}|{encoder_digest}", torch.empty(0))])


def embed(encoder: Encoder, squares_BCHW: Tensor) -> Tensor:
    """Raw condition embeddings (B, D), the encoder's first token, of images in 0..1."""
    return encoder.tokens(normalise(squares_BCHW))[:, 0].float()


def write_generator(
    folder: Path,
    pipeline: LatentDiffusionPipeline,
    encoder: EncoderSettings | None,
    encoder_digest: str,
    *,
    image_size: int,
    encoder_image_size: int,
    provenance: Mapping[str, Any],
    half: bool = False,
) -> GeneratorMetadata:
    """Fill an empty folder with a generator.

    Args:
        folder: Where to write; the caller makes it appear atomically.
        pipeline: The generator.
        encoder: Conditioning encoder, whose file, if it is one, is copied into the folder; None if it is not known.
        encoder_digest: Digest of the encoder's weights.
        image_size: Side of a generated view in pixels.
        encoder_image_size: Side in pixels at which the encoder sees an image.
        provenance: Where the generator came from.
        half: Save denoiser and projector in fp16; the pipeline's are rounded alike.
    """
    for part in (pipeline.unet, pipeline.projector) if half else ():
        nn.Module.to(part, torch.float16)
    pipeline.save_pretrained(folder)
    for part in (pipeline.unet, pipeline.projector):
        nn.Module.to(part, torch.float32)  # as it is read again, and as the digest counts it
    encoder = _copied_into(folder, encoder) if encoder is not None else None
    digest = generator_digest(pipeline, encoder_digest)
    metadata = GeneratorMetadata(digest, encoder, encoder_digest, encoder_image_size, image_size, dict(provenance))
    plain = {**asdict(metadata), "encoder": encoder.model_dump(mode="json") if encoder is not None else None}
    (folder / METADATA_FILE).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return metadata


def _copied_into(folder: Path, encoder: EncoderSettings) -> EncoderSettings:
    """The encoder with its file, if it has one, inside the folder and named without it."""
    if encoder.checkpoint is None:
        return encoder
    source = Path(encoder.checkpoint)
    name = f"encoder{source.suffix}"
    if source.parent != folder:
        shutil.copyfile(source, folder / name)
    return encoder.model_copy(update={"checkpoint": name})


def _found_in(folder: Path, encoder: EncoderSettings) -> EncoderSettings:
    """The encoder with its file, if it has one, under its path."""
    if encoder.checkpoint is None:
        return encoder
    return encoder.model_copy(update={"checkpoint": str(folder / Path(encoder.checkpoint).name)})


def load_generator(folder: str | Path, *, device: torch.device | str = "cpu") -> Generator:
    """Load a generator folder and check that its weights are the ones it was written with.

    Args:
        folder: A folder that was trained or imported, e.g. `results/generators/NAME`.
        device: Where to put the generator and its conditioning encoder.

    Raises:
        ValueError: if the folder is no generator folder, names no encoder, its weights or its encoder are not those of
            `cdgmae.json`, or a value among them is not finite.
    """
    folder, device = Path(folder), given_device(device)
    metadata = read_metadata(folder)
    if metadata.encoder is None:
        raise ValueError(
            f"{folder} has no conditioning encoder, so nothing can be sampled from images; import the checkpoint again with "
            "--encoder, the encoder that it was trained with"
        )
    encoder = load_conditioning_encoder(_found_in(folder, metadata.encoder), device=device)
    _check_digest(folder, "conditioning encoder", encoder.digest, metadata.encoder_digest)
    return Generator(load_pipeline(folder, metadata).to(device), encoder, metadata)


def load_pipeline(folder: Path, metadata: GeneratorMetadata) -> LatentDiffusionPipeline:
    """The generator of a folder without its conditioning encoder, on the CPU in fp32, its weights checked; `metadata` are the folder's.

    Raises:
        ValueError: as `load_generator`, whatever the encoder.
    """
    disable_progress_bar()  # the library would draw a bar into the job's log
    try:
        pipeline = LatentDiffusionPipeline.from_pretrained(folder)
    except (OSError, RuntimeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"{folder} cannot be loaded as a generator ({error}); {how_to_remake(folder / METADATA_FILE)}") from None
    _check_digest(folder, "generator", generator_digest(pipeline, metadata.encoder_digest), metadata.digest)
    for name in ("unet", "projector", "autoencoder"):
        if (module := getattr(pipeline, name)) is not None:
            check_finite(f"{folder}, {name}", module.state_dict())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_digest(folder: Path, name: str, actual: str, wanted: str) -> None:
    if actual != wanted:
        raise ValueError(
            f"{folder}: the {name}'s weights have digest {actual}, {METADATA_FILE} says {wanted}; {how_to_remake(folder / METADATA_FILE)}"
        )


def read_metadata(folder: Path) -> GeneratorMetadata:
    """What a generator folder says about itself, without loading any weights.

    Raises:
        ValueError: if the folder is no generator folder.
    """
    path = folder / METADATA_FILE
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        encoder = EncoderSettings.from_plain(plain["encoder"]) if plain["encoder"] is not None else None
        return GeneratorMetadata(**{**plain, "encoder": encoder})
    except OSError as error:
        raise ValueError(
            f"{folder} is no generator folder: {METADATA_FILE} cannot be read ({error.strerror}); give a folder that "
            "`cdgmae views train-generator` or `cdgmae views import-generator` wrote"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {how_to_remake(path)}") from None
