"""A finished run as a checkpoint in CropMAE's layout, for evaluation code that knows only that one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from cdgmae.models.cross_view_mae import CrossViewMAE
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.files.atomic import atomic_file, explain_write_errors


def export_checkpoint(run_dir: Path, output: Path) -> dict[str, object]:
    """Write `{"model", "epoch", "args"}` as CropMAE's training script does at its end (spec cross_view_mae 2.2).

    `args` is a plain dict of the run's settings, not an `argparse.Namespace`: torch loads the file with `weights_only=True`, its
    default, and so does any older reader. Optimiser and loss scaler, which only resuming there would use, are left out.

    Args:
        run_dir: Folder of a finished run, with `model.safetensors` and `config.json`.
        output: The `.pth` to write; CropMAE calls its last one `checkpoint-<epochs - 1>.pth`.

    Returns:
        The file, its number of tensors and its zero-based epoch.

    Raises:
        ValueError: if the run is not finished, its weights do not fit its settings, or `output` is no `.pth`.
    """
    if output.suffix not in (".pth", ".pt"):
        raise ValueError(f"--output {output}: a torch checkpoint must end in .pth")
    settings = run_settings(run_dir)
    model = CrossViewMAE.from_settings(settings)
    report = model.load_checkpoint(run_dir / "model.safetensors")
    content = {"model": model.state_dict(), "epoch": settings.epochs - 1, "args": settings.model_dump(mode="json")}
    with explain_write_errors(output), atomic_file(output) as temporary:
        torch.save(content, temporary)
    return {"checkpoint": str(output), "tensors": len(report.matched), "epoch": settings.epochs - 1}


def run_settings(run_dir: Path) -> PretrainRunSettings:
    """The settings with which a finished run was trained.

    Raises:
        ValueError: if the folder holds no finished run of this package.
    """
    config = run_dir / "config.json"
    try:
        content: Any = json.loads(config.read_text(encoding="utf-8"))
        return PretrainRunSettings.from_plain(content["settings"])
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise ValueError(
            f"{run_dir} holds no finished run ({config.name}: {error}); give a folder such as results/pretrain/cdg/seed0"
        ) from None
