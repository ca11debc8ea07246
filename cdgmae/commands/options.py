"""What all commands share: common options, settings given as JSON or file, folders of shards, and how a result is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console

from cdgmae.runtime.distribution import is_main_process
from cdgmae.settings.base import Settings
from cdgmae.settings.messages import describe_problems

AnySettings = TypeVar("AnySettings", bound=Settings)

SettingsOption = Annotated[
    str, typer.Option("--settings", help="The stage's settings as JSON text, or a .json/.yaml file. Other flags override it.")
]
ShardOption = Annotated[
    Path, typer.Option("--shard", help="Image shard with the real images, e.g. results/shards/imagenet/00000.tar.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Root seed of every random draw.")]
DeviceOption = Annotated[str, typer.Option("--device", envvar="CDGMAE_DEVICE", help="auto, cpu or cuda.")]
PrecisionOption = Annotated[str, typer.Option("--precision", envvar="CDGMAE_PRECISION", help="fp32, bf16 or fp16.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="CPU threads; all cores if left out.")]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", envvar="CDGMAE_WORKERS", help="Processes that share the work; default: one per visible GPU."),
]
LogIntervalOption = Annotated[
    float, typer.Option("--log-interval", envvar="CDGMAE_LOG_INTERVAL", help="Seconds between two progress lines in a log file.")
]
CheckpointIntervalOption = Annotated[
    float, typer.Option("--checkpoint-interval", envvar="CDGMAE_CHECKPOINT_INTERVAL", help="Seconds between two saved states.")
]
CheckpointStepsOption = Annotated[
    int | None,
    typer.Option("--checkpoint-steps", envvar="CDGMAE_CHECKPOINT_STEPS", min=1, help="Save a state every so many steps, too."),
]
KeepCheckpointsOption = Annotated[
    int, typer.Option("--keep-checkpoints", envvar="CDGMAE_KEEP_CHECKPOINTS", min=1, help="Saved states that are kept.")
]
MicroBatchOption = Annotated[
    int | None,
    typer.Option(
        "--micro-batch-size", envvar="CDGMAE_MICRO_BATCH_SIZE", min=1,
        help="Most samples in one forward pass; gradients are accumulated over a batch. Lower it when memory runs out.",
    ),
]  # fmt: skip
LoaderWorkersOption = Annotated[
    int | None,
    typer.Option(
        "--loader-workers", envvar="CDGMAE_LOADER_WORKERS", min=0,
        help="Processes that prepare batches; 0: one background thread. Left out: 0 on a CPU, else the cores.",
    ),
]  # fmt: skip
CompileOption = Annotated[bool, typer.Option("--compile/--no-compile", envvar="CDGMAE_COMPILE", help="Use torch.compile.")]
TrackersOption = Annotated[
    str,
    typer.Option(
        "--trackers", envvar="CDGMAE_TRACKERS",
        help="Mirror the metrics to these, separated by commas: tensorboard, wandb, trackio, mlflow. Offline; empty for none.",
    ),
]  # fmt: skip
FinishedOption = Annotated[
    Path | None,
    typer.Option(
        "--finished",
        help="Folder in which the finished output gets a second name, under which it is found when the first is deleted. Both are the same "
        "file: it takes no space until the first name is deleted. Left out: nothing is kept.",
    ),
]
ReuseFinishedOption = Annotated[
    bool,
    typer.Option(
        "--reuse-finished/--no-reuse-finished", envvar="CDGMAE_REUSE_FINISHED",
        help="Put back what --finished holds if it was made from the same, or make it anew.",
    ),
]  # fmt: skip
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
    origin = "--settings"
    if text and not text.lstrip().startswith("{"):
        origin = text
        try:
            values = yaml.safe_load(Path(text).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"--settings {text}: {error.strerror}; give JSON text or an existing .json/.yaml file") from None
    else:
        try:
            values = json.loads(text) if text else {}
        except json.JSONDecodeError as error:
            raise ValueError(f"--settings is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{origin} must hold a mapping of settings, found {type(values).__name__}")
    values.update({name: value for name, value in overrides.items() if value is not None})
    try:
        return kind.from_plain(values)
    except ValidationError as error:
        raise ValueError(f"{origin}: " + "; ".join(describe_problems(error, kind))) from None


def find_shards(folder: Path) -> list[Path]:
    """All shard tars of a folder, in order.

    Raises:
        ValueError: if there are none.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise ValueError(f"{folder} holds no .tar shards; run the stage that makes them first, or check the path")
    return tars


def find_tables(folder: Path) -> list[Path]:
    """All Parquet tables of a folder, in order.

    Raises:
        ValueError: if there are none.
    """
    tables = sorted(folder.glob("*.parquet"))
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
    console = Console()
    for name, value in result.items():
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        console.print(f"  [bold]{name}[/bold]  {shown}", highlight=False)
