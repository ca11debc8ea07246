"""A trained encoder as a folder that timm opens: weights, configuration, and a card with its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer

from cdgmae import __version__
from cdgmae.interchange.cards import PAPER, card, json_block, licence_text, markdown_table, refuse_used_folder
from cdgmae.models.encoders.checkpoints import load_encoder_file
from cdgmae.models.encoders.frozen_encoder import weights_digest
from cdgmae.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from cdgmae.paper import PAPER_TABLES
from cdgmae.pretrain.export import run_settings
from cdgmae.propagation.measures.score_schema import TABLE_SCHEMA
from cdgmae.propagation.measures.scores import table_scores
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
CARD_COLUMNS = ("J&F", "J", "F", "mIoU", "PCK@0.1", "PCK@0.2")


def export_encoder(run_dir: Path, output: Path, *, results: Path, licence: str) -> dict[str, object]:
    """Write a run's encoder as a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)` or a model hub.

    Args:
        run_dir: Folder of a finished run.
        output: The folder to write: `model.safetensors`, `config.json`, `README.md`.
        results: Folder with the results of the workflow; its propagation tables give the card's numbers, found by the digest of the
            weights, so that no number of another encoder can get there.
        licence: Licence identifier for the card, or `other`.

    Returns:
        The folder, the timm architecture, the number of parameters and the clip sets with scores.

    Raises:
        ValueError: if the run is not finished, `output` is in use, or something cannot be written.
    """
    refuse_used_folder(output)
    settings, vit = run_settings(run_dir), load_encoder_file(run_dir / "encoder.safetensors")
    digest = weights_digest(vit.state_dict().items())
    evaluations = find_evaluations(results, digest)
    architecture = timm_architecture(settings.vit)
    with explain_write_errors(output), atomic_folder(output) as folder:
        tensors = {name: tensor.contiguous() for name, tensor in vit.state_dict().items()}
        (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
        (folder / "config.json").write_text(
            json.dumps(timm_config(architecture, settings.vit), indent=2) + "\n", encoding="utf-8"
        )
        text = _card(run_dir, settings, vit, digest, evaluations, licence)
        (folder / "README.md").write_text(text, encoding="utf-8")
    parameters = sum(parameter.numel() for parameter in vit.parameters())
    return {"output": str(output), "architecture": architecture, "parameters": parameters, "clip_sets": sorted(evaluations)}


def timm_architecture(vit: VitSettings) -> str:
    """The timm model of these dimensions; where timm has none, ViT-S/16, whose every dimension the folder's `model_args` set."""
    dimensions = vit.model_dump(exclude={"image_size"})
    return next((TIMM_NAMES[name] for name, known in ARCHITECTURES.items() if known == dimensions), TIMM_NAMES["vits16"])


def timm_config(architecture: str, vit: VitSettings) -> dict[str, Any]:
    """The `config.json` that timm reads: architecture, dimensions, and how images are prepared."""
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": vit.embed_dim,
        "global_pool": "token",
        "model_args": {
            "img_size": vit.image_size,
            "patch_size": vit.patch_size,
            "embed_dim": vit.embed_dim,
            "depth": vit.depth,
            "num_heads": vit.num_heads,
            "num_classes": 0,
        },
        "pretrained_cfg": {
            "input_size": [3, vit.image_size, vit.image_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def find_evaluations(results: Path, digest: str) -> dict[str, dict[str, Any]]:
    """Clip set -> scores in percent, protocol and number of sequences, of the encoder with these weights.

    Args:
        results: Folder with `propagation/{encoder}/{clip_set}.parquet`.
        digest: `weights_digest` of the encoder.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(results.glob("propagation/*/*.parquet")):
        table = read_table(path)
        if not set(TABLE_SCHEMA.names) <= set(table.column_names):
            continue
        rows = table.to_pylist()
        if rows and rows[0]["encoder_digest"] == digest:
            sequences = len({row["sequence"] for row in rows})
            found[rows[0]["clip_set"]] = {
                "scores": table_scores(rows), "protocol": json.loads(rows[0]["protocol"]), "sequences": sequences
            }  # fmt: skip
    return found


def _card(
    run_dir: Path,
    settings: PretrainRunSettings,
    vit: VisionTransformer,
    digest: str,
    evaluations: dict[str, dict[str, Any]],
    licence: str,
) -> str:
    name = f"{run_dir.parent.name}, {run_dir.name}"
    metadata = {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "license": licence,
        "tags": ["timm", "vision-transformer", "masked-autoencoder", "correspondence", "video-label-propagation", "cdg-mae"],
    }
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
    return card(metadata, f"CDG-MAE encoder: {name}", sections)


def _use(vit: VitSettings) -> str:
    return (
        '```python\nimport timm\n\nencoder = timm.create_model("local-dir:FOLDER", pretrained=True)  # "hf-hub:OWNER/NAME" once published\n'
        "tokens = encoder.forward_features(images)  # the CLS token, then the patch tokens\n```\n\n"
        f"Images are {vit.image_size} x {vit.image_size} RGB, normalised with ImageNet's mean and deviation."
    )


def _scores_section(evaluations: dict[str, dict[str, Any]]) -> str:
    """This encoder's scores above the paper's rows; what was not measured is a dash."""
    if not evaluations:
        return "Not measured: no propagation table of these weights was found when this folder was written."
    scores = {name: value for facts in evaluations.values() for name, value in facts["scores"].items()}
    rows = [row for row in PAPER_TABLES["table5"].rows.values() if "CDG" in row.labels[0]]
    paper = [[f"paper: {row.labels[0]}", *(row.printed[column].value for column in CARD_COLUMNS)] for row in rows]
    table = markdown_table(["encoder", *CARD_COLUMNS], [["this one", *(scores.get(column) for column in CARD_COLUMNS)], *paper])
    return (
        f"Video label propagation with the frozen encoder, in percent, higher is better.\n\n{table}\n\nThe paper's numbers hold for "
        "ViT-S/16, ImageNet-1K and the full clip sets; compare only under the same protocol and clips."
    )


def _protocol_section(evaluations: dict[str, dict[str, Any]]) -> str:
    parts = []
    for clip_set, facts in sorted(evaluations.items()):
        protocol = {name: value for name, value in facts["protocol"].items() if name != "root"}  # a path of the machine
        parts.append(f"{clip_set}, {facts['sequences']} sequences:\n\n{json_block(protocol)}")
    return "\n\n".join(parts) or "None was measured."
