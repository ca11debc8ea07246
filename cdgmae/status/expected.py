"""All jobs that the default target needs, with the files by which each can be judged: the rules' paths, from the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdgmae import names
from cdgmae.config import Config
from cdgmae.jobs import Jobs

RULE_OF_KIND = {
    "s_ldm": "sample_views",
    "rcg": "sample_views",
    "diffusers": "sample_pipeline",
    "knn": "gather_neighbours",
    "random": "gather_random",
    "video": "read_clips",
}
"""Which rule writes the view shards of a source."""

RESUMED_RULES = ("sample_views", "sample_pipeline")
"""Those of them that keep finished views in a work folder; the others are quick."""


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
    jobs = Jobs(config)
    page = f"{names.RESULTS}/report"
    return [
        *_demo_jobs(config, jobs),
        *_shard_jobs(config, jobs),
        *_view_jobs(config, jobs),
        *_consistency_jobs(config, jobs),
        *_pretrain_jobs(config),
        *_propagation_jobs(config, jobs),
        Job("report", "page", "write_report", "report", (page,), (page,)),
        *_table_jobs(jobs),
    ]


def _table_jobs(jobs: Jobs) -> Iterator[Job]:
    for table in jobs.named_tables():
        yield Job(
            "report",
            "paper tables",
            "write_table",
            table,
            tuple(names.paper_table(table, kind) for kind in ("csv", "md", "html")),
        )


def _demo_jobs(config: Config, jobs: Jobs) -> Iterator[Job]:
    paths = [dataset.path for dataset in config.shards.datasets.values()]
    paths += [protocol.root for protocol in config.propagation.protocols.values()]
    for marker in sorted({marker for path in paths for marker in jobs.demo_inputs(path)}):
        yield Job("demo", "demo data", "draw_demo_data", "demo", (marker,))


def _shard_jobs(config: Config, jobs: Jobs) -> Iterator[Job]:
    for dataset in config.shards.datasets:
        folder, group = names.shards_dir(dataset), f"shards of {dataset}"
        manifest = f"{folder}/{names.MANIFEST}"
        yield Job("shards", f"list of {dataset}", "write_manifest", dataset, (manifest,), (manifest,))
        for shard in jobs.shard_names(dataset):
            yield _images_job("shards", group, "write_shard", dataset, shard, folder)
        yield Job(
            "shards", f"check of {dataset}", "summarise_shards", dataset, (f"{folder}/summary.csv", jobs.shard_gate(dataset))
        )


def _view_jobs(config: Config, jobs: Jobs) -> Iterator[Job]:
    sources = {name: source for name, source in config.views.sources.items() if source.has_files}
    used = dict.fromkeys(source.generator_name for source in sources.values() if source.generator_name is not None)
    for generator in used:
        settings = config.views.generators[generator]
        if settings.path is None and settings.train is not None:
            folder = names.generator_dir(generator)
            work = f"work/views/train_generator/{generator}"
            yield Job("views", "generators", "train_generator", generator, (folder,), (folder,), (work,))
    for name, source in sources.items():
        if source.kind == "knn":
            yield from _embedding_jobs(name, jobs)
        rule, group = RULE_OF_KIND[source.kind], f"shards of {name}"
        for shard in jobs.shard_names(source.dataset):
            resumed = (f"work/views/sample/{name}/{shard}",) if rule in RESUMED_RULES else ()
            yield _images_job("views", group, rule, name, shard, names.views_dir(name), resumed)


def _embedding_jobs(source: str, jobs: Jobs) -> Iterator[Job]:
    for shard, table in zip(jobs.shard_names(jobs.dataset_of(source)), jobs.embedding_tables(source), strict=True):
        yield Job("views", f"embeddings of {source}", "embed_images", f"{source}/{shard}", (table,), (table,))
    index = f"{names.embeddings_dir(source)}/index.faiss"
    yield Job("views", f"index of {source}", "index_embeddings", source, (index,), (index,))


def _consistency_jobs(config: Config, jobs: Jobs) -> Iterator[Job]:
    for source in config.consistency.sources:
        for shard, table in zip(jobs.shard_names(jobs.dataset_of(source)), jobs.score_tables(source), strict=True):
            work = f"work/consistency/{source}/{shard}"
            yield Job("consistency", f"shards of {source}", "score_views", f"{source}/{shard}", (table,), (table,), (work,))
    summary = f"{names.RESULTS}/consistency/summary"
    yield Job("consistency", "summary", "summarise_consistency", "summary", (f"{summary}.csv", f"{summary}.parquet"))


def _pretrain_jobs(config: Config) -> Iterator[Job]:
    for run in config.pretrain.runs:
        for seed in config.pretrain.seeds:
            folder = names.run_dir(run, seed)
            work = f"work/pretrain/{run}/seed{seed}"
            yield Job(
                "pretrain", "runs", "pretrain_encoder", f"{run}/seed{seed}", (names.encoder_file(run, seed),), (folder,), (work,)
            )  # fmt: skip


def _propagation_jobs(config: Config, jobs: Jobs) -> Iterator[Job]:
    for encoder in jobs.judged_encoders():
        for clip_set in config.propagation.protocols:
            table = names.propagation_table(encoder, clip_set)
            work = f"work/propagation/{encoder}/{clip_set}"
            outputs = (names.propagation_strips(encoder, clip_set), table)
            yield Job("propagation", "clip sets", "propagate_labels", f"{encoder}/{clip_set}", outputs, (table,), (work,))
    summary = f"{names.RESULTS}/propagation/summary"
    yield Job("propagation", "summary", "summarise_propagation", "summary", (f"{summary}.csv", f"{summary}.parquet"))


def _images_job(stage: str, group: str, rule: str, name: str, shard: str, folder: str, work: tuple[str, ...] = ()) -> Job:
    """A job that writes the tar and then the index of a shard."""
    tar = f"{folder}/{shard}.tar"
    return Job(stage, group, rule, f"{name}/{shard}", (tar, f"{folder}/{shard}.parquet"), (tar,), work)
