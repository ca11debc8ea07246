"""A trained encoder as a folder that timm opens: weights, configuration, and a card with its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import ModelCard, ModelCardData
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer

from cdgmae import __version__
from cdgmae.interchange.cards import PAPER, card_text, json_block, licence_text, markdown_table, refuse_used_folder
from cdgmae.models.encoders.checkpoints import load_encoder_file
from cdgmae.models.encoders.frozen_encoder import weights_digest
from cdgmae.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from cdgmae.paper import PAPER_TABLES
from cdgmae.pretrain.export import run_settings
from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of, column_of
from cdgmae.propagation.measures.encoder_summary import summary_rows, wide_rows
from cdgmae.propagation.measures.score_table import COMMON_COLUMNS
from cdgmae.settings.encoder import ARCHITECTURES, VitSettings
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.files.atomic import atomic_folder, explain_write_errors
from cdgmae.storage.tables import read_table

TIMM_NAMES = {
    "vits16": "vit_small_patch16_224",
    "vits8": "vit_small_patch8_224",
    "vitb16": "vit_base_patch16_224",
    "vitl16": "vit_large_patch16_224",
}


def export_encoder(run_dir: Path, output: Path, *, results: Path, licence: str) -> dict[str, object]:
    """Write a run's encoder as a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)` or a model hub.

    Args:
        run_dir: Folder of a finished run.
        output: The folder to write: `model.safetensors`, `config.json`, `README.md`.
        results: Folder with the results of the workflow; its propagation tables give the card's numbers, found by the digest of the
            weights, so that no number of another encoder can get there.
        licence: Licence identifier for the card, or `other`.

    Returns:
        The folder, the timm architecture, the number of parameters and the evaluation sets with scores.

    Raises:
        ValueError: if the run is not finished, `output` is in use, or something cannot be written.
    """
    refuse_used_folder(output)
    settings, vit = run_settings(run_dir), load_encoder_file(run_dir / "encoder.safetensors")
    digest = weights_digest(vit.state_dict().items())
    evaluations = find_evaluations(results, digest)
    architecture = timm_architecture(settings.vit)
    with explain_write_errors(output), atomic_folder(output) as folder:
        model = as_timm_model(architecture, vit, settings.vit)
        save_for_hf(model, str(folder), model_args=timm_arguments(settings.vit), safe_serialization=True)
        _card(run_dir, settings, vit, digest, evaluations, licence).save(folder / "README.md")
    parameters = sum(parameter.numel() for parameter in vit.parameters())
    return {"output": str(output), "architecture": architecture, "parameters": parameters, "evaluation_sets": sorted(evaluations)}


def timm_architecture(vit: VitSettings) -> str:
    """The timm model of these dimensions; where timm has none, ViT-S/16, whose every dimension the folder's `model_args` set."""
    dimensions = vit.model_dump(exclude={"image_size"})
    return next((TIMM_NAMES[name] for name, known in ARCHITECTURES.items() if known == dimensions), TIMM_NAMES["vits16"])


def as_timm_model(architecture: str, vit: VisionTransformer, settings: VitSettings) -> VisionTransformer:
    """The same encoder as timm builds it under a name, with how its images are prepared."""
    side = settings.image_size
    prepared = {
        "architecture": architecture, "input_size": (3, side, side), "fixed_input_size": True, "interpolation": "bicubic", "crop_pct": 1.0,
        "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "num_classes": 0, "first_conv": "patch_embed.proj", "classifier": "head",
    }  # fmt: skip
    model: VisionTransformer = timm.create_model(architecture, pretrained_cfg=prepared, **timm_arguments(settings))
    model.load_state_dict(vit.state_dict())
    return model


def timm_arguments(settings: VitSettings) -> dict[str, Any]:
    """The dimensions as timm names them."""
    return {"img_size": settings.image_size, **settings.model_dump(exclude={"image_size"}), "num_classes": 0}


def find_evaluations(results: Path, digest: str) -> dict[str, list[dict[str, Any]]]:
    """Evaluation set -> its rows of the summary, of the encoder with these weights.

    Args:
        results: Folder with `propagation/{encoder}/{set}.parquet`.
        digest: `weights_digest` of the encoder.
    """
    evaluations: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results.glob("propagation/*/*.parquet")):
        table = read_table(path)
        rows = table.to_pylist() if set(COMMON_COLUMNS) <= set(table.column_names) else []
        if rows and rows[0]["encoder_digest"] == digest:
            evaluations[rows[0]["set"]] = summary_rows(rows)
    return evaluations


def _card(
    run_dir: Path,
    settings: PretrainRunSettings,
    vit: VisionTransformer,
    digest: str,
    evaluations: dict[str, list[dict[str, Any]]],
    licence: str,
) -> ModelCard:
    name = f"{run_dir.parent.name}, {run_dir.name}"
    metadata = ModelCardData(
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        license=licence,
        tags=["timm", "vision-transformer", "masked-autoencoder", "correspondence", "video-label-propagation", "cdg-mae"],
    )
    sections = {
        "What it is": f"A Vision Transformer encoder (patch {settings.vit.patch_size}, width {settings.vit.embed_dim}, depth "
        f"{settings.vit.depth}) pre-trained with the pretext `{settings.pretext}` on bags of view source `{settings.source}`, the method "
        f"of *{PAPER}*. Written by cdgmae {__version__}; digest of the weights {digest}.",
        "Use": _use(settings.vit),
        "Scores": _scores_section(evaluations),
        "Protocol": _protocol_section(evaluations),
        "Training settings": json_block(settings.model_dump(mode="json")),
        "Licence": licence_text(licence, "these weights"),
    }
    return ModelCard(card_text(metadata, f"CDG-MAE encoder: {name}", sections))


def _use(vit: VitSettings) -> str:
    return (
        '```python\nimport timm\n\nencoder = timm.create_model("local-dir:FOLDER", pretrained=True)  # "hf-hub:OWNER/NAME" once published\n'
        "tokens = encoder.forward_features(images)  # the CLS token, then the patch tokens\n```\n\n"
        f"Images are {vit.image_size} x {vit.image_size} RGB, normalised with ImageNet's mean and deviation."
    )


def _scores_section(evaluations: dict[str, list[dict[str, Any]]]) -> str:
    """This encoder's scores above the paper's rows; what was not measured is a dash."""
    if not evaluations:
        return "Not measured: no propagation table of these weights was found when this folder was written."
    shown = [
        row
        for rows in evaluations.values()
        for row, measure in zip(rows, benchmark_of(rows[0]["kind"]).measures, strict=True)
        if measure.shown
    ]
    columns = [column_of(row["set"], row["kind"], row["measure"]) for row in shown]
    ours = wide_rows([{**row, "encoder": "this one"} for row in shown])[0]
    published = [row for row in PAPER_TABLES["table5"].rows.values() if "CDG" in row.labels[0]]
    paper = [[f"paper: {row.labels[0]}", *(row.value(column) for column in columns)] for row in published]
    table = markdown_table(["encoder", *columns], [["this one", *(ours[column] for column in columns)], *paper])
    return (
        f"Frozen encoder, nothing trained, in percent, higher is better.\n\n{table}\n\nThe paper's numbers hold for "
        "ViT-S/16, ImageNet-1K and the full data sets; compare only under the same protocol and sequences."
    )


def _protocol_section(evaluations: dict[str, list[dict[str, Any]]]) -> str:
    parts = []
    for name, rows in sorted(evaluations.items()):
        protocol = {
            key: value for key, value in json.loads(rows[0]["protocol"]).items() if key != "root"
        }  # a path of the machine
        parts.append(f"{name}, {rows[0]['sequences']} sequences:\n\n{json_block(protocol)}")
    return "\n\n".join(parts) or "None was measured."
