"""`cdgmae consistency`: score view pairs, summarise the scores, look at them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import (
    ENCODER_HELP,
    DeviceOption,
    PrecisionOption,
    RuntimeOption,
    SettingsOption,
    ThreadsOption,
    csv_beside,
    json_wanted,
    parse_runtime,
    parse_settings,
    print_result,
    refuse_both,
    refuse_failed_data_set,
)
from cdgmae.names import shard_names
from cdgmae.settings.consistency import ScoringSettings, SummarySettings
from cdgmae.settings.encoder import parse_encoder

ResultsOption = Annotated[
    Path, typer.Option("--results", help="Folder with summary.parquet and one folder of score tables per source.")
]

SourceArgument = Annotated[str, typer.Argument(help="View source whose score tables are read.")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", help="Write all rows to this file instead: .csv, .json or .parquet.", show_default=False),
]

app = typer.Typer(
    no_args_is_help=True,
    help="Score how well generated views agree with their real image, and look at the scores.\n\n"
    "GS: cosine of the CLS tokens. LS: mean cosine of patch tokens at equal positions. NPS: mean over the real image's patches of the "
    "best cosine to any patch of the view; nps_reverse is the other direction. Good views for learning correspondence keep GS and NPS "
    "high while LS drops: the same content, moved.",
)


@app.command()
def score(
    real: Annotated[Path, typer.Option("--real", help="Image shard (.tar, its .parquet index beside it) of the real images.")],
    encoder: Annotated[str, typer.Option("--encoder", help=f"Scoring encoder. {ENCODER_HELP} Paper: vit_base_patch16_224.mae.")],
    source: Annotated[str, typer.Option("--source", help="Name of the view source, stored in every row.")],
    output: Annotated[
        Path, typer.Option("--output", help="Score table to write (.parquet): key, view_a, view_b, gs, ls, nps, ...")
    ],
    views: Annotated[
        Path | None,
        typer.Option("--views", help="Image shard of the views of the same keys; left out: crop pairs of the real images."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="Kind of the source, which finds its counterpart in the paper. Default: the source's name."),
    ] = None,
    work: Annotated[
        Path | None, typer.Option("--work", help="Folder for finished parts until the table is whole; default: beside OUTPUT.")
    ] = None,
    settings: SettingsOption = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Images per encoder pass. Default 64.")] = None,
    max_bad_fraction: Annotated[
        float | None,
        typer.Option("--max-bad-fraction", help="Fail when more than this share of pairs cannot be scored. Default 0.001."),
    ] = None,
    runtime: RuntimeOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Score the view pairs of a shard: every view against its real image, or crops of the real images.

    Every image is embedded once. An image that cannot be read becomes a row with status `bad` and the reason. Killed at any
    moment and started again, it goes on from its last finished part and ends with the same table.

    Example: cdgmae consistency score --real results/shards/photos/00000.tar --views results/views/s_ldm/00000.tar --source s_ldm
    --encoder vit_base_patch16_224.mae --output 00000.parquet
    """
    from cdgmae.consistency.scoring.score_shard import score_shard
    from cdgmae.runtime.devices import limit_threads
    from cdgmae.storage.files.publishing import published

    chosen = parse_settings(ScoringSettings, settings, batch_size=batch_size, max_bad_fraction=max_bad_fraction)
    here = parse_runtime(runtime, device, precision, threads)
    limit_threads(here.thread_limit)
    refuse_failed_data_set(real)
    with published(output, work=work):
        result = score_shard(
            chosen, real, views, parse_encoder(encoder), output, source=source, runtime=here, kind=kind, work_dir=work,
        )  # fmt: skip
    print_result(result)


@app.command()
def summarise(
    output: Annotated[Path, typer.Option("--output", help="Summary to write (.parquet); a .csv is written beside it.")],
    tables: Annotated[list[Path] | None, typer.Argument(help="Score tables of one or more sources.", show_default=False)] = None,
    results: ResultsOption = Path("results/consistency"),
    settings: SettingsOption = None,
) -> None:
    """Write one row per view source: pairs, bad ones, mean, deviation and quantiles of every score.

    Tables are named one by one, or by --settings '{"num_shards": {"s_ldm": 128}}' as those of --results: a command line does not hold the
    names of thousands.
    """
    from cdgmae.consistency.consistency_summary import summarise as summarise_tables
    from cdgmae.storage.files.publishing import published

    counts = parse_settings(SummarySettings, settings).num_shards
    named = [results / source / f"{shard}.parquet" for source, count in counts.items() for shard in shard_names(count)]
    csv, score_files = csv_beside(output), [*(tables or []), *named]
    with published(output, csv, inputs=score_files):
        result = summarise_tables(score_files, output, csv)
    print_result(result)


@app.command()
def show(
    results: ResultsOption = Path("results/consistency"),
    metric: Annotated[str, typer.Option("--metric", help="Score drawn as histogram: gs, ls, nps or nps_reverse.")] = "nps",
) -> None:
    """Print the summary beside the paper's Tables 1 and 9, and a histogram of one score per source."""
    from cdgmae.consistency.score_display import read_display, render_display

    display = read_display(results, metric)
    if json_wanted():
        print_result({"sources": display.rows, "histograms": display.histograms})
    else:
        render_display(display)


@app.command()
def classes(source: SourceArgument, results: ResultsOption = Path("results/consistency")) -> None:
    """Print bags, pairs and mean scores per class of the real image, the classes of lowest NPS first."""
    from cdgmae.consistency.class_scores import score_classes
    from cdgmae.consistency.score_display import render_rows

    table = score_classes(results, source)
    if json_wanted():
        print_result({"source": source, "classes": table.to_pylist()})
    else:
        render_rows(f"{table.num_rows:,} classes of {source}, lowest NPS first", table.to_pylist(), text=("class_name",))


@app.command()
def compare(
    first: SourceArgument,
    second: Annotated[str, typer.Argument(help="The source that it is compared with.")],
    results: ResultsOption = Path("results/consistency"),
    output: OutputOption = None,
) -> None:
    """Compare two sources on the real images that both have views of: differences, wins and correlation of every score.

    One value per bag: the mean over its pairs. --output writes every common key with both values and their difference.
    """
    from cdgmae.consistency.score_display import render_comparison
    from cdgmae.consistency.source_comparison import compare_sources
    from cdgmae.storage.row_files import write_rows

    compared = compare_sources(results, first, second)
    if output is not None:
        write_rows(output, [compared.rows], compared.rows.schema)
    if json_wanted():
        print_result({"first": first, "second": second, **compared.summary(), "output": output})
    else:
        render_comparison(compared, first, second)


@app.command()
def query(
    expression: Annotated[
        str, typer.Argument(help="Condition on the columns, e.g. 'nps < 0.5 and gs > 0.95', with and, or, not, + - * /.")
    ],
    results: ResultsOption = Path("results/consistency"),
    source: Annotated[str | None, typer.Option("--source", help="Look at this view source only; all if left out.")] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help="Column to order by, smallest first; -COLUMN: largest first.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="Pairs to give. Default: 20 on the terminal and with --images, else all that match."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder for one strip per given bag: its images, the found views framed.")
    ] = None,
    output: OutputOption = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the pairs as CSV and nothing else.")] = False,
) -> None:
    """Find view pairs by their scores, over all score tables.

    Columns: key, view_a (0 = the real image), view_b, gs, ls, nps, nps_reverse, status (ok or bad), reason, source, encoder, class_name.

    Example: cdgmae consistency query 'nps < 0.5 and gs > 0.95' --source s_ldm --sort nps
    """
    from cdgmae.consistency.query import SHOWN, Query, write_strips
    from cdgmae.consistency.score_display import render_matches
    from cdgmae.consistency.score_tables import QUERY_SCHEMA
    from cdgmae.storage.row_files import write_csv_rows, write_json_rows, write_rows

    refuse_both("--csv", as_csv, "--output" if output else "--json", output or json_wanted())
    column = sort.removeprefix("-") if sort is not None else None
    asked = Query(results, expression, source, column, sort != column)
    if limit is None and images is None and (as_csv or json_wanted() or output is not None):
        rows, parts, strips = None, asked.all(), []
    else:
        rows = asked.first(SHOWN if limit is None else limit)
        parts = iter([rows.rows.select(QUERY_SCHEMA.names)])
        strips = [str(path) for path in write_strips(rows, results, images)] if images is not None else []
    stdout = typer.get_binary_stream("stdout")
    if output is not None:
        print_result({"pairs": write_rows(output, parts, QUERY_SCHEMA), "output": str(output), "images": strips})
    elif as_csv:
        write_csv_rows(parts, QUERY_SCHEMA, stdout)
    elif json_wanted():
        stdout.write(b'{"pairs": ')
        count = write_json_rows(parts, QUERY_SCHEMA, stdout)
        stdout.write(f', "matches": {count if rows is None else rows.total}, "images": {json.dumps(strips)}}}\n'.encode())
    elif rows is not None:
        render_matches(rows, strips)


@app.command()
def keep(
    source: Annotated[str, typer.Option("--source", help="View source.")],
    expression: Annotated[
        str | None, typer.Argument(help="Condition that a view must meet, e.g. 'nps >= 0.6 and gs >= 0.9'.", show_default=False)
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep", help="Score whose lower limit is tried at twenty values, each with what it keeps: gs, ls, nps, ..."
        ),
    ] = None,
    num_anchors: Annotated[int, typer.Option("--num-anchors", help="Views that a bag needs besides its target.")] = 1,
    results: ResultsOption = Path("results/consistency"),
) -> None:
    """Say how many bags and views a run's `view_filter` would keep, before anyone trains.

    A bag is kept if --num-anchors of its views meet the condition. `views_meeting` counts all views that do, `kept_views` those in kept bags.

    Example: cdgmae consistency keep 'nps >= 0.6 and gs >= 0.9' --source s_ldm --num-anchors 3
    """
    from cdgmae.consistency.score_display import render_rows
    from cdgmae.consistency.view_selection import count_kept, sweep_threshold

    if sweep is not None:
        swept = sweep_threshold(results, sweep, source, num_anchors, expression)
        if json_wanted():
            print_result(swept)
        else:
            title = f"{source}: {swept['bags']:,} bags, {swept['views']:,} views; a bag needs {num_anchors} view(s)"
            render_rows(title, swept["thresholds"], text=("filter",))
    elif expression is not None:
        print_result(count_kept(results, expression, source, num_anchors))
    else:
        raise ValueError("give a condition, e.g. 'nps >= 0.6', or --sweep nps for a table of limits")
