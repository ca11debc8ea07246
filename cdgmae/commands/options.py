"""What all commands share: common options, settings given as JSON or file, folders of shards, and how a result is printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from cdgmae.runtime.distribution import is_main_process
from cdgmae.settings.base import Settings
from cdgmae.settings.encoder import EncoderSettings, parse_encoder
from cdgmae.settings.reading.plain_values import read_json, read_yaml
from cdgmae.settings.runtime import RUNTIME_VARIABLE, RuntimeSettings
from cdgmae.terminal import open_console

AnySettings = TypeVar("AnySettings", bound=Settings)

ENCODER_HELP = (
    "A file (encoder.safetensors, a CropMAE/SiamMAE/MAE/DINO/VideoMAE .pth), a timm name, NAME@FILE (timm's architecture, weights of a file), "
    "random:NAME, pixels:P (no network), or all fields of an encoder as JSON."
)
KeyOption = Annotated[
    str | None,
    typer.Option("--key", help="Where the weights lie in the encoder's file, e.g. model_ema; default: averaged before raw ones."),
]
PrefixOption = Annotated[
    str | None,
    typer.Option("--prefix", help="What the keys of the encoder in its file begin with, e.g. module.momentum_encoder."),
]
NumHeadsOption = Annotated[
    int | None, typer.Option("--num-heads", help="Attention heads of the encoder's file, which no tensor shows.", min=1)
]
SettingsOption = Annotated[
    str, typer.Option("--settings", help="The stage's settings as JSON text, or a .json/.yaml file. Other flags override it.")
]
ShardOption = Annotated[
    Path, typer.Option("--shard", help="Image shard with the real images, e.g. results/shards/imagenet/00000.tar.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Root seed of every random draw.")]
RuntimeOption = Annotated[
    str,
    typer.Option(
        "--runtime", envvar=RUNTIME_VARIABLE,
        help="How to run on this machine: keys of section `runtime` of config.yaml, as JSON text or a .json/.yaml file, e.g. "
        "'{\"compile\": true}'. The other options override it.",
    ),
]  # fmt: skip
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
PrecisionOption = Annotated[str | None, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="CPU threads; all cores if left out.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]


def parse_settings(kind: type[AnySettings], text: str = "", **overrides: Any) -> AnySettings:
    """Build settings from JSON text or a file, with flags laid over them.

    Args:
        kind: The settings class to build.
        text: JSON text, the name of a .json/.yaml file, or empty for the defaults.
        overrides: Field values from flags; None means the flag was not given.

    Raises:
        ValueError: naming each key, its value and what is allowed.
    """
    values, origin = read_values(text, "--settings")
    return kind.checked({**values, **_given(overrides)}, origin)


def choose_encoder(text: str, key: str | None, prefix: str | None, num_heads: int | None) -> EncoderSettings:
    """An encoder as `parse_encoder` reads it, with what the hand options say about its file.

    Raises:
        ValueError: as `parse_encoder`, or if the encoder is no file.
    """
    said = {"key": key, "prefix": prefix, "num_heads": num_heads}
    plain = {**parse_encoder(text).model_dump(mode="json"), **{name: value for name, value in said.items() if value is not None}}
    return parse_encoder(json.dumps(plain))


def parse_runtime(
    text: str, device: str | None = None, precision: str | None = None, threads: int | None = None
) -> RuntimeSettings:
    """The machine settings of a command: `--runtime`, or its environment variable, with the hand options laid over it.

    Raises:
        ValueError: naming each key, its value and what is allowed.
    """
    values, origin = read_values(text, "--runtime")
    by_hand = {"device": device, "precision": precision, "threads": threads}
    return RuntimeSettings.checked({**values, **_given(by_hand)}, origin)


def read_values(text: str, option: str) -> tuple[dict[str, Any], str]:
    """Plain values from JSON text or a file, and what to blame for them: the option or the file.

    Args:
        text: JSON text, the name of a .json/.yaml file, or empty for none.
        option: Name of the option.

    Raises:
        ValueError: if they cannot be read or are no mapping.
    """
    origin = option
    if text and not text.lstrip().startswith("{"):
        origin = text
        try:
            values = read_yaml(Path(text))
        except OSError as error:
            raise ValueError(f"{option} {text}: {error.strerror}; give JSON text or an existing .json/.yaml file") from None
    else:
        values = read_json(text, option) if text else {}
    if not isinstance(values, dict):
        raise ValueError(f"{origin} must hold a mapping of settings, found {type(values).__name__}")
    return values, origin


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def find_tables(folder: Path, like: Sequence[Path] = ()) -> list[Path]:
    """All Parquet tables of a folder, in order; with `like` those that are named like one of these shards.

    Raises:
        ValueError: if there are none.
    """
    tables = [table for table in sorted(folder.glob("*.parquet")) if not like or table.stem in {tar.stem for tar in like}]
    if not tables:
        raise ValueError(f"{folder} holds no .parquet tables; run the stage that makes them first, or check the path")
    return tables


def csv_beside(output: Path) -> Path:
    """The CSV that a summary command writes beside its Parquet table.

    Raises:
        ValueError: if `output` is not named as a Parquet table.
    """
    if output.suffix != ".parquet":
        raise ValueError(f"--output {output}: must end in .parquet; the .csv is written beside it")
    return output.with_suffix(".csv")


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Print what a command achieved: aligned lines for people, one JSON object for programs. Of several processes the first one does."""
    if not is_main_process():
        return
    if as_json:
        typer.echo(json.dumps(result, default=str))
        return
    console = open_console()
    for name, value in result.items():
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        console.print(f"  [bold]{name}[/bold]  {shown}", highlight=False)
