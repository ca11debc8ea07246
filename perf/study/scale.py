"""The study's configuration for a machine: paths, and how much of everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdgmae.config import Config, check_config
from cdgmae.demo.draw import draw_demo
from cdgmae.settings.demo import DemoSettings
from cdgmae.settings.reading.plain_values import read_yaml

GPU_EPOCHS = 5
"""Times as many epochs on a GPU, in batches twice as large: more steps of a size that keeps it busy."""


def study_config(file: Path, data: Path, *, on_gpu: bool, tiny: bool) -> Config:
    """The configuration with the images and clips below `data`, at the size of the machine.

    Args:
        file: `workflow/experiments/small_study.yaml` or one like it.
        data: Folder with `images/`, `guidance/`, `DAVIS/` and `JHMDB/`, as `lay_out` makes it.
        on_gpu: More epochs and larger batches, fewer steps of the generator.
        tiny: Toy sizes instead, one seed; the numbers then mean nothing.

    Raises:
        ConfigError: if the file cannot be run.
    """
    values: dict[str, Any] = read_yaml(file)
    datasets, sets = values["shards"]["datasets"], values["propagation"]["datasets"]
    for name, folder in (("imagenet", "images"), ("guidance", "guidance"), ("clips", "DAVIS/JPEGImages/480p")):
        datasets[name]["path"] = str(data / folder)
    for protocol in sets.values():
        protocol["root"] = str(data / protocol["kind"].upper())
    if tiny:
        _shrink(values)
    elif on_gpu:
        _enlarge(values)
    return check_config(values, str(file))


def _enlarge(values: dict[str, Any]) -> None:
    defaults = values["pretrain"]["defaults"]
    for settings in (defaults, *values["pretrain"]["runs"].values()):
        if "epochs" in settings:
            settings["epochs"] *= GPU_EPOCHS
    defaults["effective_batch_size"] *= 2
    values["views"]["generators"]["s_ldm"]["train"] |= {"batch_size": 256, "num_steps": 2500}
    for source in values["views"]["sources"].values():
        if source["kind"] == "s_ldm":
            source["sampling"]["batch_size"] = 1536
    values["views"]["sources"]["knn"]["batch_size"] = 512
    values["consistency"]["batch_size"] = 512


def _shrink(values: dict[str, Any]) -> None:
    pretrain = values["pretrain"]
    pretrain["seeds"] = [0]
    pretrain["defaults"] |= {
        "embed_dim": 48,
        "depth": 1,
        "decoder_embed_dim": 32,
        "decoder_depth": 1,
        "epochs": 4,
        "effective_batch_size": 8,
    }
    for run in pretrain["runs"].values():
        run.pop("epochs", None)
    values["propagation"]["encoders"] = {name: of for name, of in values["propagation"]["encoders"].items() if "seed" not in of}
    for protocol in values["propagation"]["datasets"].values():
        protocol["input_size"] = [64, 64]
    values["shards"]["datasets"]["imagenet"] |= {"num_shards": 2}
    training = values["views"]["generators"]["s_ldm"]["train"]
    training.pop("monitoring")
    training |= {"num_steps": 2, "batch_size": 8, "warmup_steps": 1}
    training["unet"] |= {"block_out_channels": [16, 32], "attention_levels": [1], "num_heads": 1, "cross_attention_dim": 48}
    sources = values["views"]["sources"]
    for source in sources.values():
        if source["kind"] == "s_ldm":
            source["sampling"] |= {"num_inference_steps": 2}
    sources["video"]["frame_gap"] = [1, 3]


def draw_tiny_data(data: Path) -> None:
    """Draw stand-ins for images and clips where none are given."""
    draw_demo(DemoSettings(directory=str(data), num_tiles=27, tile_size=64, clips_per_set=2, frames_per_clip=5), 0)
