"""`cdgmae propagation`: evaluate frozen encoders by video label propagation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cdgmae.commands.options import (
    ENCODER_HELP,
    DeviceOption,
    JsonOption,
    KeyOption,
    NumHeadsOption,
    PrefixOption,
    RuntimeOption,
    SettingsOption,
    ThreadsOption,
    choose_encoder,
    csv_beside,
    parse_runtime,
    parse_settings,
    print_result,
)
from cdgmae.settings.propagation import ProtocolSettings

app = typer.Typer(
    no_args_is_help=True,
    help="Judge a frozen encoder by video label propagation.\n\n"
    "The labels of a clip's first frame travel to every later frame through nearest neighbours of patch features; nothing is trained. "
    "DAVIS-2017: object masks, J and F. VIP: body parts, mIoU. JHMDB: 15 joints, PCK. The protocol is CropMAE's, which the paper uses, "
    "reproduced to the pixel. Works with any encoder on its own; neither Snakemake nor a config is needed.",
)


class OverlayFormat(StrEnum):
    """Files that overlays can be written as."""

    gif = "gif"
    mp4 = "mp4"


class Resolution(StrEnum):
    """Versions of DAVIS."""

    p480 = "480p"
    full = "Full-Resolution"


class ClipSet(StrEnum):
    """The three benchmarks."""

    davis = "davis"
    vip = "vip"
    jhmdb = "jhmdb"


PAPER_DEFAULTS: dict[str, dict[str, Any]] = {
    "davis": {"input_size": (480, 880), "top_k": 7},
    "vip": {"input_size": 880, "top_k": 10},
    "jhmdb": {"input_size": (320, 320), "top_k": 7},
}


RootOption = Annotated[
    Path, typer.Option("--root", help="Folder of the clips in their official layout; nothing is written into it.")
]
InputSizeOption = Annotated[
    str | None,
    typer.Option(
        "--input-size",
        help="HEIGHTxWIDTH in pixels, or one number for the longer side (the shorter one is rounded down to a multiple of 64). "
        "Paper: 480x880 (DAVIS), 880 (VIP), 320x320 (JHMDB).",
    ),
]
TopKOption = Annotated[int | None, typer.Option("--top-k", help="Keys per query that vote. Paper: 7, VIP 10.")]
QueueLengthOption = Annotated[
    int | None, typer.Option("--queue-length", help="Frames in the memory besides the first. Paper: 20.")
]
RadiusOption = Annotated[
    float | None, typer.Option("--radius", help="Neighbourhood radius in patches; the first frame is exempt. Paper: 20.")
]
ResolutionOption = Annotated[
    Resolution | None,
    typer.Option("--resolution", help="DAVIS only: 480p or Full-Resolution; J and F are measured at this size. Default 480p."),
]
TemperatureOption = Annotated[float | None, typer.Option("--temperature", help="Softmax temperature. Default 0.7.")]
RestrictFirstFrameOption = Annotated[
    bool | None,
    typer.Option(
        "--restrict-first-frame/--exempt-first-frame", help="Whether the radius holds for frame 0 too. Default: exempt."
    ),
]
RestartEveryOption = Annotated[
    int | None,
    typer.Option(
        "--restart-every",
        help="Frames after which the queue is forgotten and labels come from frame 0 alone; 1: every frame straight from frame 0. "
        "Default 0: never.",
    ),
]
ScoredSizeOption = Annotated[
    str | None,
    typer.Option("--scored-size", help="DAVIS: measure J and F at the size of the `annotation` (default) or of the `input`."),
]
ProtocolPrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="fp32 (default, as published) or bf16: arithmetic of the encoder.")
]
ShareOption = Annotated[
    str | None,
    typer.Option(
        "--share",
        help="K/N: compute only the K-th of N shares of the clips (K from 0), e.g. one per Slurm task, and keep them in the folder of "
        "finished clips. Run once more without it for the table.",
    ),
]


@app.command()
def run(
    clip_set: Annotated[ClipSet, typer.Argument(help="Which benchmark.")],
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder",
            help=f"Encoder to judge. {ENCODER_HELP}",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder of the results; the table is OUTPUT/CLIP_SET.parquet.")],
    root: Annotated[
        str | None, typer.Option("--root", help="Folder of the clips in their official layout; nothing is written into it.")
    ] = None,
    key: KeyOption = None,
    prefix: PrefixOption = None,
    num_heads: NumHeadsOption = None,
    settings: SettingsOption = "",
    resolution: ResolutionOption = None,
    input_size: InputSizeOption = None,
    top_k: TopKOption = None,
    queue_length: QueueLengthOption = None,
    radius: RadiusOption = None,
    temperature: TemperatureOption = None,
    restrict_first_frame: RestrictFirstFrameOption = None,
    restart_every: RestartEveryOption = None,
    scored_size: ScoredSizeOption = None,
    precision: ProtocolPrecisionOption = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Encoder name in the table; the encoder as given if left out.")
    ] = None,
    save_predictions: Annotated[
        bool,
        typer.Option(
            "--save-predictions",
            help="Also write OUTPUT/masks/SEQUENCE/00000.png (DAVIS, VIP: palette PNGs, as the DAVIS toolkit reads them) "
            "or OUTPUT/joints/CLIP.parquet (JHMDB).",
        ),
    ] = False,
    overlays: Annotated[
        OverlayFormat | None,
        typer.Option(
            "--overlays",
            help="Also write OUTPUT/overlays/SEQUENCE.gif or .mp4: the frames under their predicted labels, errors outlined. "
            "mp4 is smaller and needs `pip install cdgmae\\[video]`.",
        ),
    ] = None,
    strips: Annotated[
        bool,
        typer.Option(
            "--strips",
            help="Also write OUTPUT/strips/CLIP_SET/SEQUENCE.jpg: five frames side by side, the first with its given labels, the others under "
            "their predicted ones, errors outlined; the report shows them.",
        ),
    ] = False,
    work: Annotated[
        Path | None,
        typer.Option(
            "--work", help="Folder of finished clips: an interrupted run continues from it. Default OUTPUT/.CLIP_SET.work."
        ),
    ] = None,
    runtime: RuntimeOption = "",
    device: DeviceOption = None,
    share: ShareOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Propagate labels through every clip of one benchmark and measure them.

    Prints J&F, J and F, or mIoU, or PCK@0.1 to PCK@0.5, all in percent; the table holds a row per sequence and object, part or joint
    with everything the scores are made of and the protocol. The data folder is checked first and every problem listed; nothing is written into
    it. An interrupted run continues with the missing clips. Under `cdgmae cluster launch` each process takes a share of the clips.
    """
    from cdgmae.propagation.evaluation import run_propagation
    from cdgmae.runtime.devices import limit_threads
    from cdgmae.runtime.distribution import is_main_process
    from cdgmae.storage.files.locks import exclusive_writer

    protocol = read_protocol(
        clip_set.value, settings, root=root, resolution=resolution, input_size=parse_input_size(input_size),
        top_k=top_k, queue_length=queue_length, radius=radius, temperature=temperature,
        restrict_first_frame=restrict_first_frame, restart_every=restart_every, scored_size=scored_size, precision=precision,
    )  # fmt: skip
    here = parse_runtime(runtime, device, threads=threads)
    limit_threads(here.thread_limit)
    table = output / f"{clip_set.value}.parquet"
    part = parse_share(share)
    writes_table = is_main_process() and not part  # shares and ranks run side by side
    only_writer = exclusive_writer(table) if writes_table else nullcontext()
    with only_writer, stop_if_asked("clip", "finished clips are kept") as check_now:
        scores = run_propagation(
            clip_set.value, protocol, choose_encoder(encoder, key, prefix, num_heads), table,
            runtime=here, name=name, work_dir=work or output / f".{clip_set.value}.work",
            save_predictions=output if save_predictions else None,
            overlays=output if overlays else None, overlay_format=overlays.value if overlays else "gif",
            strips=output / "strips" / clip_set.value if strips else None,
            after_clip=check_now, share=part
        )  # fmt: skip
    print_result(dict(scores) if as_json or part else {**scores, "table": table}, as_json)


@app.command()
def check(
    clip_set: Annotated[ClipSet, typer.Argument(help="Which benchmark.")],
    root: RootOption,
    resolution: ResolutionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a data folder as `run` does before its first clip, in seconds: every problem is listed, nothing is written."""
    from cdgmae.propagation.benchmarks.image_files import show_size
    from cdgmae.propagation.benchmarks.layouts import read_clips

    clips = read_clips(clip_set.value, root, resolution)
    sizes = sorted({clip.frame_size for clip in clips})
    frames = sum(len(clip.frames) for clip in clips)
    print_result({"clips": len(clips), "frames": frames, "sizes": ", ".join(map(show_size, sizes))}, as_json)


@app.command("prepare-davis")
def prepare_davis(
    root: RootOption,
    output: Annotated[Path, typer.Option("--output", help="New folder for the copy; then give it to `run davis` as --root.")],
    as_json: JsonOption = False,
) -> None:
    """Make the 480x880 copy of DAVIS-2017 val that the published numbers were measured on.

    Frames and annotations are resized by nearest neighbours, frames saved again as JPEG of quality 75. Scores measured on it differ from
    those on the original 480p data by several tenths of a point. An interrupted copy continues.
    """
    from cdgmae.propagation.benchmarks.prepare_davis import prepare_davis as prepare

    with stop_if_asked("sequence", "finished sequences are kept") as check_now:
        print_result(prepare(root, output, check_now), as_json)


@app.command()
def summarise(
    tables: Annotated[list[Path], typer.Argument(help="Tables of one or more encoders and clip sets.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="Summary to write (.parquet); a .csv is written beside it.")],
    as_json: JsonOption = False,
) -> None:
    """One row per encoder: J&F, J, F, mIoU, PCK@0.1 to PCK@0.5, in percent."""
    from cdgmae.propagation.measures.encoder_summary import summarise as summarise_tables

    print_result(summarise_tables(tables, output, csv_beside(output)), as_json)


@app.command()
def show(
    results: Annotated[Path, typer.Option("--results", help="Folder with summary.parquet, or that file.")] = Path(
        "results/propagation"
    ),
    as_json: JsonOption = False,
) -> None:
    """Print the summary above the paper's Table 5, with the conditions of each benchmark."""
    from cdgmae.propagation.output.table5_display import read_display, render_display

    display = read_display(results)
    if as_json:
        print_result({"encoders": display.rows, "conditions": display.conditions}, True)
    else:
        render_display(display)


@contextmanager
def stop_if_asked(unit: str, kept: str) -> Iterator[Callable[[str], None]]:
    """A check to run after each `unit` of work, which ends the job if a signal or the time limit asks for it."""
    from cdgmae.runtime.interrupts import Interrupted, StopRequest

    with StopRequest() as stop:

        def check_now(name: str) -> None:
            reason = stop.reason()
            if reason is not None:
                raise Interrupted(f"{reason} after {unit} {name}; {kept}, run the same command again")

        yield check_now


def read_protocol(clip_set: str, settings: str, **flags: Any) -> ProtocolSettings:
    """The protocol of a clip set: the paper's values, then `--settings`, then flags.

    Raises:
        ValueError: if a value is not allowed or no root is given.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    if not settings and "root" not in given:
        raise ValueError(f"--root is needed: the folder of {clip_set} in its official layout")
    chosen = parse_settings(ProtocolSettings, settings, **given)
    paper = {key: value for key, value in PAPER_DEFAULTS[clip_set].items() if key not in chosen.model_fields_set}
    return chosen.model_copy(update=paper)


def parse_share(text: str | None) -> tuple[int, int] | None:
    """`0/4` as (0, 4).

    Raises:
        ValueError: if the text is no share.
    """
    if text is None:
        return None
    numbers = text.split("/")
    if len(numbers) != 2 or not all(number.isascii() and number.isdecimal() for number in numbers):
        raise ValueError(f"--share {text!r}: give K/N with K from 0 to N - 1, e.g. 0/4 for the first of four shares")
    return int(numbers[0]), int(numbers[1])


def parse_input_size(text: str | None) -> list[int] | int | None:
    """`480x880` as [480, 880], `880` as 880.

    Raises:
        ValueError: if the text is neither.
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise ValueError(
            f"--input-size {text!r}: give HEIGHTxWIDTH in pixels, e.g. 480x880, or one number for the longer side, e.g. 880"
        )
    numbers = [int(side) for side in sides]
    return numbers if len(numbers) == 2 else numbers[0]
