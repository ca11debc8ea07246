"""`cdgmae propagation`: evaluate frozen encoders by video label propagation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cdgmae.commands.options import (
    ENCODER_HELP,
    DeviceOption,
    RuntimeOption,
    SettingsOption,
    ThreadsOption,
    csv_beside,
    json_wanted,
    parse_runtime,
    parse_settings,
    print_result,
    read_values,
)
from cdgmae.propagation.benchmarks.benchmark import Benchmark
from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS, EvaluationSet, benchmark_of
from cdgmae.settings.encoder import parse_encoder


def _measures(benchmark: Benchmark[Any, Any]) -> str:
    return ", ".join(measure.name for measure in benchmark.measures if measure.shown)


app = typer.Typer(
    no_args_is_help=True,
    help="Judge a frozen encoder without training anything: the labels of a clip's first frame travel to every later frame through nearest "
    "neighbours of patch features.\n\n"
    "Kinds of evaluation sets: "
    + " ".join(f"{kind} ({benchmark.title}: {_measures(benchmark)})." for kind, benchmark in BENCHMARKS.items())
    + " The protocol is CropMAE's, which the paper uses, reproduced to the pixel. Works with any encoder on its own; neither Snakemake nor a "
    "config is needed.",
)


class OverlayFormat(StrEnum):
    """Files that overlays can be written as."""

    gif = "gif"
    mp4 = "mp4"


Kind = StrEnum("Kind", {kind: kind for kind in BENCHMARKS})  # type: ignore[misc]
KindArgument = Annotated[Kind, typer.Argument(help="Kind of evaluation set.")]
RootOption = Annotated[
    Path, typer.Option("--root", help="Folder of the clips in their official layout; nothing is written into it.")
]
ShareOption = Annotated[
    str | None,
    typer.Option(
        "--share",
        help="K/N: compute only the K-th of N shares of the clips (K from 0), e.g. one per Slurm task, and keep them in the folder of "
        "finished clips. Run once more without it for the table.",
    ),
]
PredictionsOption = Annotated[
    bool,
    typer.Option(
        "--save-predictions",
        help="Also write OUTPUT/masks/SEQUENCE/00000.png (DAVIS, VIP: palette PNGs, as the DAVIS toolkit reads them) "
        "or OUTPUT/joints/CLIP.parquet (JHMDB), OUTPUT/key_points/CATEGORY.parquet (SPair), OUTPUT/tracks/CLIP.parquet (points).",
    ),
]
OverlaysOption = Annotated[
    OverlayFormat | None,
    typer.Option(
        "--overlays",
        help="Also write OUTPUT/overlays/SEQUENCE.gif or .mp4: the frames under their predicted labels, errors outlined. "
        "mp4 is smaller and needs `pip install cdgmae\\[video]`.",
    ),
]
StripsOption = Annotated[
    bool,
    typer.Option(
        "--strips",
        help="Also write OUTPUT/strips/SET/SEQUENCE.jpg: five frames side by side, the first with its given labels, the others under "
        "their predicted ones, errors outlined; the report shows them.",
    ),
]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder with a folder of tables per encoder.")]


@app.command()
def run(
    kind: KindArgument,
    encoder: Annotated[str, typer.Option("--encoder", help=f"Encoder to judge. {ENCODER_HELP}")],
    output: Annotated[Path, typer.Option("--output", help="Folder of the results; the table is OUTPUT/SET.parquet.")],
    root: Annotated[
        str | None, typer.Option("--root", help="Folder of the clips in their official layout; nothing is written into it.")
    ] = None,
    settings: SettingsOption = None,
    set_name: Annotated[str | None, typer.Option("--set", help="Name of the evaluation set; the kind if left out.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Encoder name in the table; the encoder as given if left out.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the encoder's run, for the table.")] = None,
    save_predictions: PredictionsOption = False,
    overlays: OverlaysOption = None,
    strips: StripsOption = False,
    work: Annotated[
        Path | None,
        typer.Option("--work", help="Folder of finished clips: an interrupted run continues from it. Default OUTPUT/.SET.work."),
    ] = None,
    runtime: RuntimeOption = None,
    device: DeviceOption = None,
    share: ShareOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure a frozen encoder on one evaluation set.

    Prints the measures of the kind, in percent; the table holds a row per sequence and object, part or joint with everything the scores are
    made of and the protocol. The data folder is checked first and every problem listed; nothing is written into it. An interrupted run
    continues with the missing clips. Under `cdgmae cluster launch` each process takes a share of the clips.

    Example: cdgmae propagation run davis --root data/DAVIS --encoder vit_small_patch16_224.dino --output dino
    """
    from cdgmae.propagation.evaluation import run_propagation
    from cdgmae.runtime.devices import limit_threads
    from cdgmae.runtime.distribution import is_main_process
    from cdgmae.storage.files.publishing import published

    protocol = read_protocol(kind.value, settings, root)
    name_of_set = set_name or kind.value
    here = parse_runtime(runtime, device, threads=threads)
    limit_threads(here.thread_limit)
    table = output / f"{name_of_set}.parquet"
    part = parse_share(share)
    writes_table = is_main_process() and not part  # shares and ranks run side by side
    strips_folder = output / "strips" / name_of_set
    only_writer = published(table, *([strips_folder] if strips else [])) if writes_table else nullcontext()
    with only_writer, stop_if_asked("clip", "finished clips are kept") as check_now:
        scores = run_propagation(
            protocol, parse_encoder(encoder), table,
            runtime=here, name=name, seed=seed, set_name=name_of_set, work_dir=work or output / f".{name_of_set}.work",
            save_predictions=output if save_predictions else None,
            overlays=output if overlays else None, overlay_format=overlays.value if overlays else "gif",
            strips=strips_folder if strips else None,
            after_clip=check_now, share=part,
        )  # fmt: skip
    print_result(dict(scores) if json_wanted() or part else {**scores, "table": table})


@app.command()
def check(kind: KindArgument, root: RootOption, settings: SettingsOption = None) -> None:
    """Check a data folder as `run` does before its first clip, in seconds: every problem is listed, nothing is written."""
    from cdgmae.propagation.layouts.image_files import show_size

    sequences = benchmark_of(kind.value).read(read_protocol(kind.value, settings, str(root)))
    frames = sum(sequence.num_frames for sequence in sequences)
    sizes = sorted({size for sequence in sequences for size in sequence.sizes})
    print_result({"sequences": len(sequences), "frames": frames, "sizes": ", ".join(map(show_size, sizes))})


@app.command("prepare-davis")
def prepare_davis(
    root: RootOption,
    output: Annotated[Path, typer.Option("--output", help="New folder for the copy; then give it to `run davis` as --root.")],
) -> None:
    """Make the 480x880 copy of DAVIS-2017 val that the published numbers were measured on.

    Frames and annotations are resized by nearest neighbours, frames saved again as JPEG of quality 75. Scores measured on it differ from
    those on the original 480p data by several tenths of a point. An interrupted copy continues.
    """
    from cdgmae.propagation.layouts.prepare_davis import prepare_davis as prepare
    from cdgmae.storage.files.publishing import published
    from cdgmae.storage.files.records import drop_cut_files

    drop_cut_files(output)
    with published(output), stop_if_asked("sequence", "finished sequences are kept") as check_now:
        result = prepare(root, output, check_now)
    print_result(result)


@app.command("prepare-tap-vid")
def prepare_tap_vid(
    pickle: Annotated[Path, typer.Argument(help="TAP-Vid-DAVIS's file, tapvid_davis.pkl.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="New folder; then give it to `run tap_vid` as --root.")],
) -> None:
    """Write the videos and points of TAP-Vid's published pickle as images and tables, once.

    Nothing in the pickle is executed: it is read as NumPy arrays in plain containers, and refused if it asks for anything else.
    """
    from cdgmae.propagation.tracks.tap_vid_pickle import prepare_tap_vid as prepare

    print_result(prepare(pickle, output))


@app.command()
def summarise(
    tables: Annotated[list[Path], typer.Argument(help="Tables of one or more encoders and evaluation sets.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="Summary to write (.parquet); a .csv is written beside it.")],
) -> None:
    """Write all measures of all encoders and evaluation sets: a row each, and as CSV a row per encoder."""
    from cdgmae.propagation.measures.encoder_summary import summarise as summarise_tables
    from cdgmae.storage.files.publishing import published

    csv = csv_beside(output)
    with published(output, csv):
        result = summarise_tables(tables, output, csv)
    print_result(result)


@app.command()
def show(
    results: Annotated[Path, typer.Option("--results", help="Folder with summary.parquet, or that file.")] = Path(
        "results/propagation"
    ),
) -> None:
    """Print the summary above the paper's Table 5, with the conditions of each evaluation set."""
    from cdgmae.propagation.output.table5_display import read_display, render_display

    display = read_display(results)
    if json_wanted():
        print_result({"summary": display.summary})
    else:
        render_display(display)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="Name of an encoder in the results.", show_default=False)],
    second: Annotated[str, typer.Argument(help="Name of another one.", show_default=False)],
    results: ResultsOption = Path("results/propagation"),
) -> None:
    """Compare two encoders: who wins which sequence, and a paired bootstrap interval over sequences of every difference.

    Other seeds of an encoder (NAME_seedN) count with it. An interval that holds zero says that another choice of sequences may turn the
    difference around; it does not speak of training again with another seed.
    """
    from cdgmae.propagation.output.encoder_comparison import compare_encoders, render_comparison

    comparisons = compare_encoders(results, first, second)
    if json_wanted():
        print_result({"first": first, "second": second, "sets": [comparison.as_plain() for comparison in comparisons]})
        return
    for comparison in comparisons:
        render_comparison(comparison, first, second)


@contextmanager
def stop_if_asked(unit: str, what_stays: str) -> Iterator[Callable[[str], None]]:
    """A check to run after each `unit` of work, which ends the job if a signal or the time limit asks for it."""
    from cdgmae.runtime.interrupts import Interrupted, StopRequest

    with StopRequest() as stop:

        def check_now(name: str) -> None:
            reason = stop.reason()
            if reason is not None:
                raise Interrupted(f"{reason} after {unit} {name}; {what_stays}, run the same command again")

        yield check_now


def read_protocol(kind: str, settings: Sequence[str] | None, root: str | None) -> EvaluationSet:
    """The protocol of a set: the paper's values, then `--settings`, then `--root`.

    Raises:
        ValueError: if a value is not allowed, no root is given, or the settings are those of another kind.
    """
    benchmark = benchmark_of(kind)
    if root is None and "root" not in read_values(settings, "--settings")[0]:
        raise ValueError(f"--root is needed: the folder of {benchmark.title} in its official layout")
    protocol: EvaluationSet = parse_settings(benchmark.protocol, settings, root=root)
    return protocol


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
