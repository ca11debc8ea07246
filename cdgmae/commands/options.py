"""What all commands share: common options, settings given as JSON or file, folders of shards, and how a result is printed."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.text import Text
from typer.core import TyperCommand

from cdgmae.names import REFUSED_IMAGES, STAGES
from cdgmae.runtime.distribution import is_main_process
from cdgmae.settings.base import Settings
from cdgmae.settings.reading.plain_values import read_json, read_yaml, read_yaml_text
from cdgmae.settings.runtime import RUNTIME_VARIABLE, RuntimeSettings
from cdgmae.storage.files.command_line import command_line
from cdgmae.terminal import open_console

if TYPE_CHECKING:
    from cdgmae.config import Config

AnySettings = TypeVar("AnySettings", bound=Settings)

DEFAULT_CONFIG = Path("config.yaml")
AS_JSON: ContextVar[bool] = ContextVar("as_json", default=False)
KEY_VALUE = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
SIDES = re.compile(r"\d+x\d+")

ENCODER_HELP = (
    "A file (encoder.safetensors, a CropMAE/SiamMAE/MAE/DINO/VideoMAE .pth), a timm name, NAME@FILE (timm's architecture, weights of a file), "
    "random:NAME, pixels:P (no network), or all fields of an encoder as JSON. What a file does not say follows it: "
    "'FILE?key=model_ema&prefix=module.&num_heads=12'."
)
ConfigOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        help="The configuration; several files are laid over each other in order. Left out: as the last run here had it, else config.yaml.",
    ),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--settings", metavar="SETTINGS",
        help="The stage's settings: JSON text, a .json/.yaml file, or KEY=VALUE; may be repeated, later ones override earlier ones.",
    ),
]  # fmt: skip
ShardOption = Annotated[
    Path, typer.Option("--shard", help="Image shard with the real images, e.g. results/shards/imagenet/00000.tar.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Root seed of every random draw.")]
RuntimeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime", metavar="SETTINGS",
        help="How to run on this machine: keys of section `runtime` of config.yaml, as KEY=VALUE (e.g. compile=true), JSON text or a "
        f".json/.yaml file; may be repeated. They override those of the environment variable {RUNTIME_VARIABLE}.",
    ),
]  # fmt: skip
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
PrecisionOption = Annotated[str | None, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="CPU threads; all cores if left out.")]


class Command(TyperCommand):
    """Every command: a condition may begin with a minus sign, and a configuration without `--config` is told."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """A blank before such a condition, which its reader passes over, keeps it from being read as an option."""
        options = {name for parameter in self.params for name in parameter.opts}
        if "--config" in options and not any(parameter.param_type_name == "argument" for parameter in self.params):
            for before, word in zip(["", *args], args, strict=False):
                if word.endswith((".yaml", ".yml")) and not (before.startswith("-") or word.startswith("-")):
                    raise typer.BadParameter(f"{word} stands alone; a configuration is given with --config {word}", ctx)
        condition = re.compile("-(?!-).*[<>=!]") if "expression" in options else None
        try:
            return super().parse_args(ctx, [f" {word}" if condition and condition.match(word) else word for word in args])
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # of the library that Typer checks values with
            raise


def parse_settings(kind: type[AnySettings], texts: Sequence[str] | None = None, **overrides: Any) -> AnySettings:
    """Build settings from what `--settings` says, with flags laid over it.

    Args:
        kind: The settings class to build.
        texts: As `read_values` takes them; None for the defaults.
        overrides: Field values from flags; None means the flag was not given.

    Raises:
        ValueError: naming each key, its value and what is allowed.
    """
    values, origin = read_values(texts, "--settings")
    return kind.checked({**values, **_given(overrides)}, origin)


def parse_runtime(
    texts: Sequence[str] | None, device: str | None = None, precision: str | None = None, threads: int | None = None
) -> RuntimeSettings:
    """The machine settings of a command: its environment variable, `--runtime` laid over it, and the hand options over both.

    Raises:
        ValueError: naming each key, its value and what is allowed.
    """
    from_environment = os.environ.get(RUNTIME_VARIABLE)
    values, origin = read_values([*([from_environment] if from_environment else []), *(texts or [])], "--runtime")
    by_hand = _given({"device": device, "precision": precision, "threads": threads})
    RuntimeSettings.checked(by_hand, "on the command line")
    return RuntimeSettings.checked({**values, **by_hand}, origin)


def read_values(texts: Sequence[str] | None, option: str) -> tuple[dict[str, Any], str]:
    """Plain values that an option gives, and what to blame for them: the option or the last file.

    Args:
        texts: Each JSON text, KEY=VALUE, or the name of a .json/.yaml file; later ones override keys of earlier ones.
        option: Name of the option.

    Raises:
        ValueError: if they cannot be read or are no mapping.
    """
    values: dict[str, Any] = {}
    origin = option
    for text in texts or []:
        key_and_value = KEY_VALUE.fullmatch(text)
        if text.lstrip().startswith("{"):
            content = read_json(text, option)
        elif key_and_value:
            content = {key_and_value[1]: _plain_value(key_and_value[2], f"{option} {text}")}
        else:
            content, origin = _read_file(text, option), text
        if not isinstance(content, dict):
            raise ValueError(f"{text} must hold a mapping of settings, found {type(content).__name__}")
        values |= content
    return values, origin


def load_chosen_config(files: Sequence[Path] | None, folder: Path = Path()) -> Config:
    """The configuration that a command goes by; which one is said on stderr if it was not named.

    Args:
        files: What `--config` named; None or nothing: that of the last run in `folder`, else config.yaml.
        folder: Working directory of the workflow.

    Raises:
        ConfigError: if it cannot be read or does not pass its check.
    """
    from cdgmae.config import load_config
    from cdgmae.workflow.last_run import read_last_run

    last = None if files else read_last_run(folder)
    chosen = chosen_files(files, folder)
    if is_main_process() and not files:
        typer.echo(f"configuration: {last.name if last is not None else chosen[0]}", err=True)
    return last.config if last is not None else load_config(*chosen)


def chosen_files(files: Sequence[Path] | None, folder: Path = Path()) -> list[Path]:
    """What `--config` names, else the files of the last run in a working directory, else its config.yaml.

    Raises:
        ValueError: if there is none of them.
    """
    from cdgmae.workflow.last_run import read_last_run

    last = None if files else read_last_run(folder)
    if files or last is not None:
        return list(files or map(Path, last.files if last is not None else ()))
    default = folder / DEFAULT_CONFIG
    others = [file for file in sorted(folder.glob("*.yaml")) if file != default and _names_a_stage(file)]
    lines = " or ".join(f"`{shlex.join(['cdgmae', *command_line(), '--config', str(file)])}`" for file in others)
    if not default.is_file() and others:
        raise ValueError(f"{folder.absolute()} holds no {DEFAULT_CONFIG}, and no workflow ran there yet: run {lines}")
    if not default.is_file():
        raise ValueError(
            f"{folder.absolute()} holds no {DEFAULT_CONFIG}, and no workflow ran there: go to the folder of your run, or name its "
            "configuration with --config FILE. `cdgmae init FOLDER` makes a folder to work in, `cdgmae config new` writes a configuration "
            "for your images and clips"
        )
    if others and is_main_process():
        typer.echo(f"no workflow ran here yet, so {default} is taken; for another file {lines}", err=True)
    return [default]


def _names_a_stage(file: Path) -> bool:
    """Whether a YAML file is a configuration."""
    try:
        return re.search(rf"^({'|'.join(STAGES)}):", file.read_text(encoding="utf-8"), re.MULTILINE) is not None
    except (OSError, UnicodeDecodeError):
        return False


def refuse_both(first: str, is_first: object, second: str, is_second: object) -> None:
    """Refuse two options of which the one would be passed over.

    Raises:
        ValueError: if both are given.
    """
    if is_first and is_second:
        raise ValueError(f"{first} and {second} do not go together: one of them would be passed over; leave one out")


def _plain_value(text: str, origin: str) -> Any:
    """`480x880` as two numbers, anything else as JSON and YAML read it."""
    if SIDES.fullmatch(text):
        return [int(side) for side in text.split("x")]
    try:
        return read_json(text, origin)
    except ValueError:
        return read_yaml_text(text, origin)


def _read_file(name: str, option: str) -> Any:
    try:
        return read_yaml(Path(name))
    except OSError as error:
        raise ValueError(
            f"{option} {name}: {error.strerror}; give KEY=VALUE, JSON text or an existing .json/.yaml file"
        ) from None


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def refuse_failed_data_set(shard: Path) -> None:
    """Refuse a shard of real images whose data set failed its check: hours would be spent on images that do not pass.

    Raises:
        ValueError: with the list of its bad images, which stands there until the check passes or a run of the workflow begins.
    """
    refused = shard.with_name(REFUSED_IMAGES)
    if refused.is_file():
        raise ValueError(
            f"the data set of {shard} failed its check; mend or remove the images in {refused}, or raise its max_bad_fraction, and run the same "
            "line again (without a workflow: `cdgmae shards summarise`)"
        )


def find_tables(folder: Path, like: Sequence[Path] = ()) -> list[Path]:
    """All Parquet tables of a folder, in order; with `like` those that are named like one of these shards.

    Raises:
        ValueError: if there are none.
    """
    wanted = {tar.stem for tar in like}
    tables = [table for table in sorted(folder.glob("*.parquet")) if not like or table.stem in wanted]
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


def json_wanted() -> bool:
    """Whether the command line that runs has `--json`, which `cdgmae` itself takes for all commands."""
    return AS_JSON.get()


def print_result(result: dict[str, Any]) -> None:
    """Print what a command achieved: aligned lines for people, with `--json` one object on the last line. Of several processes the first one does."""
    if not is_main_process():
        return
    if json_wanted():
        typer.echo(json.dumps(result, default=str))
        return
    console = open_console()
    for name, value in result.items():
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        console.print(Text.assemble("  ", (name, "bold"), f"  {shown}"), soft_wrap=True)
