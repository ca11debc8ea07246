"""All jobs that the default target needs, with the files by which each can be judged: the rules' paths, from the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cdgmae import names
from cdgmae.config import Config
from cdgmae.workflow import consistency, encoders, propagation, report, shards, views


@dataclass(frozen=True, slots=True)
class Job:
    """One job of the workflow.

    Attributes:
        stage: Stage word, or `demo`.
        group: What it is counted with, e.g. `shards of demo`.
        rule: Name of the rule.
        name: Its wildcards, e.g. `s_ldm/00003`; with the rule it names log and benchmark.
        outputs: Declared files or folders; the last one is written last.
        locked: The outputs beside which its lock files lie: none for jobs that take no lock.
        work: Folder of its resumable state; none for jobs that have none.
    """

    stage: str
    group: str
    rule: str
    name: str
    outputs: tuple[str, ...]
    locked: tuple[str, ...] = ()
    work: tuple[str, ...] = ()

    @property
    def log(self) -> str:
        """Its log file."""
        return f"logs/{self.rule}/{self.name}.log"

    @property
    def benchmark(self) -> str:
        """The file to which Snakemake writes the seconds that it took."""
        return f"benchmarks/{self.rule}/{self.name}.tsv"


def expected_jobs(config: Config) -> list[Job]:
    """All jobs behind the target `all`, in the order of the stages."""
    page = f"{names.RESULTS}/report"
    return [
        *_demo_jobs(config),
        *_shard_jobs(config),
        *_view_jobs(config),
        *_consistency_jobs(config),
        *_pretrain_jobs(config),
        *_propagation_jobs(config),
        Job("report", "page", "write_report", "report", (page,), (page,)),
        *_table_jobs(config),
    ]


def _table_jobs(config: Config) -> Iterator[Job]:
    for table in report.named_tables(config):
        yield Job(
            "report",
            "paper tables",
            "write_table",
            table,
            tuple(names.paper_table(table, kind) for kind in ("csv", "md", "html")),
        )


def _demo_jobs(config: Config) -> Iterator[Job]:
    paths = [dataset.path for dataset in config.shards.datasets.values()]
    paths += [protocol.root for protocol in config.propagation.datasets.values()]
    for marker in sorted({marker for path in paths for marker in encoders.demo_inputs(config, path)}):
        yield Job("demo", "demo data", "draw_demo_data", "demo", (marker,))


def _shard_jobs(config: Config) -> Iterator[Job]:
    for dataset in config.shards.datasets:
        folder, group = names.shards_dir(dataset), f"shards of {dataset}"
        manifest = f"{folder}/{names.MANIFEST}"
        yield Job("shards", f"list of {dataset}", "write_manifest", dataset, (manifest,), (manifest,))
        yield Job("shards", f"list of {dataset}", "list_left_out", dataset, (f"{folder}/{names.LEFT_OUT}",))
        for shard in shards.shard_names(config, dataset):
            yield _images_job("shards", group, "write_shard", dataset, shard, folder)
        yield Job(
            "shards", f"check of {dataset}", "summarise_shards", dataset,
            (f"{folder}/{names.BAD_IMAGES}", f"{folder}/summary.csv", shards.summary(dataset)),
        )  # fmt: skip


def _view_jobs(config: Config) -> Iterator[Job]:
    for generator in views.trained_generators(config):
        folder, work = names.generator_dir(generator), f"work/views/train_generator/{generator}"
        yield Job("views", "generators", "train_generator", generator, (folder,), (folder,), (work,))
    for embedded in views.embedded_sources(config):
        yield from _embedding_jobs(config, embedded)
    sources = {name: source for name, source in config.views.sources.items() if source.has_files}
    for name, source in sources.items():
        rule, group = "make_views" if source.on_gpu else "gather_views", f"shards of {name}"
        for shard in shards.shard_names(config, source.dataset):
            resumed = (f"work/views/make/{name}/{shard}",) if source.on_gpu else ()
            yield _images_job("views", group, rule, name, shard, names.views_dir(name), resumed)


def _embedding_jobs(config: Config, source: str) -> Iterator[Job]:
    for table in views.embedding_tables(config, source):
        shard = Path(table).stem
        yield Job("views", f"embeddings of {source}", "embed_images", f"{source}/{shard}", (table,), (table,))
    index = names.embedding_index(source)
    yield Job("views", f"index of {source}", "index_embeddings", source, (index,), (index,))


def _consistency_jobs(config: Config) -> Iterator[Job]:
    for source in config.consistency.sources:
        for table in consistency.score_tables(config, source):
            shard = Path(table).stem
            work = f"work/consistency/{source}/{shard}"
            yield Job("consistency", f"shards of {source}", "score_views", f"{source}/{shard}", (table,), (table,), (work,))
    if summaries := tuple(consistency.summaries(config)):
        yield Job("consistency", "summary", "summarise_consistency", "summary", summaries)


def _pretrain_jobs(config: Config) -> Iterator[Job]:
    for run in config.pretrain.runs:
        for seed in config.pretrain.seeds:
            folder = names.run_dir(run, seed)
            work = f"work/pretrain/{run}/seed{seed}"
            yield Job(
                "pretrain", "runs", "pretrain_encoder", f"{run}/seed{seed}", (names.encoder_file(run, seed),), (folder,), (work,)
            )  # fmt: skip


def _propagation_jobs(config: Config) -> Iterator[Job]:
    for name, protocol in config.propagation.datasets.items():
        if protocol.reads_prepared_copy:
            yield Job("propagation", "prepared sets", "prepare_davis", name, (names.prepared_listing(name),))
    for encoder in report.judged_encoders(config):
        for name in config.propagation.datasets:
            table = names.propagation_table(encoder, name)
            work = f"work/propagation/{encoder}/{name}"
            outputs = (names.propagation_strips(encoder, name), table)
            yield Job("propagation", "evaluation sets", "propagate_labels", f"{encoder}/{name}", outputs, (table,), (work,))
    if summaries := tuple(propagation.summaries(config)):
        yield Job("propagation", "summary", "summarise_propagation", "summary", summaries)


def _images_job(stage: str, group: str, rule: str, name: str, shard: str, folder: str, work: tuple[str, ...] = ()) -> Job:
    """A job that writes the tar and then the index of a shard."""
    tar = f"{folder}/{shard}.tar"
    return Job(stage, group, rule, f"{name}/{shard}", (tar, f"{folder}/{shard}.parquet"), (tar,), work)
