"""`cdgmae views make`: fill the bags of one shard, whatever the kind of the source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import (
    DeviceOption,
    PrecisionOption,
    RuntimeOption,
    SeedOption,
    SettingsOption,
    ShardOption,
    ThreadsOption,
    parse_runtime,
    print_result,
    read_values,
    refuse_failed_data_set,
)
from cdgmae.settings.reading.messages import did_you_mean
from cdgmae.views.sources.view_kinds import KINDS
from cdgmae.views.sources.view_source import ViewJob, ViewSettings


def make(
    shard: ShardOption,
    output: Annotated[
        Path, typer.Option(help="View shard to write, e.g. results/views/s_ldm/00000.tar; the index goes beside it.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="NAME=PATH, what the kind reads: generator=FOLDER (s_ldm, rcg), index=FILE of `cdgmae views index` (knn), "
            "shards=FOLDER of all image shards (knn, random, folder; default: that of --shard).",
        ),
    ] = None,
    settings: SettingsOption = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for finished views until the shard is whole; default: beside OUTPUT.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Views drawn together, for kinds that draw; default: that of the settings.")
    ] = None,
    max_bad_fraction: Annotated[
        float | None, typer.Option(help="Fail when more than this share of the views is bad; default: that of the settings.")
    ] = None,
    seed: SeedOption = 0,
    runtime: RuntimeOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Fill the bags of one shard with the views of a source of any kind.

    The settings are kind and keys of the view source; in config.yaml those of
    `views.sources.NAME` that its views depend on: for `s_ldm` and `rcg` those of
    `sampling`, for `video` also path, resize and image_size of the data set. View k of image x depends on (seed, key, k) alone.
    Kinds that draw views keep them as they are made: killed at any moment and started again, with any number of processes and any
    batch size, only what is missing is made.

    Example: cdgmae views make --shard shards/00000.tar --output views/00000.tar --settings kind=random --settings num_views=4
    """
    from cdgmae.storage.files.publishing import published
    from cdgmae.storage.image_shards import find_shards

    views = parse_views(settings, batch_size=batch_size, max_bad_fraction=max_bad_fraction)
    given = parse_inputs(inputs or [])
    refuse_failed_data_set(shard)
    job = ViewJob(
        seed=seed, shard=shard, all_shards=find_shards(given.get("shards", shard.parent)), output=output,
        work=work or output.parent / f".work-{output.stem}", inputs=given, runtime=parse_runtime(runtime, device, precision, threads),
    )  # fmt: skip
    with published(output, output.with_suffix(".parquet"), work=work):
        result = views.make(job)
    print_result(result)


def parse_views(texts: Sequence[str] | None, **others: float | None) -> ViewSettings:
    """The views that `--settings` describes.

    Args:
        texts: As `read_values` takes them: `kind`, and keys of that kind's views.
        others: In place of the settings' own, for kinds that have them; None: not given.

    Raises:
        ValueError: if the kind is missing or unknown or has no files, or a key is wrong.
    """
    values, origin = read_values(texts, "--settings")
    kind = values.pop("kind", None)
    views_class = KINDS[kind].views_class if kind in KINDS else None
    if views_class is None:
        allowed = [name for name, source in KINDS.items() if source.views_class is not None]
        raise ValueError(f"{origin}: kind = {kind!r}; allowed: {', '.join(allowed)}{did_you_mean(str(kind), allowed)}")
    values |= {name: value for name, value in others.items() if value is not None and name in views_class.model_fields}
    return views_class.checked(values, origin)


def parse_inputs(pairs: Sequence[str]) -> dict[str, Path]:
    """`NAME=PATH` texts as a mapping.

    Raises:
        ValueError: if one is not of that form or a name comes twice.
    """
    inputs: dict[str, Path] = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if not name or not path or name in inputs:
            raise ValueError(f"--input {pair}: give NAME=PATH, each name once, e.g. generator=results/generators/s_ldm")
        inputs[name] = Path(path)
    return inputs
