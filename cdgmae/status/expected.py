"""All jobs that the default target needs, with the files by which each can be judged: the rules' paths, from the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdgmae import names
from cdgmae.blocks import Block, Blocks
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
        rule: Name of the rule; of a job that makes a block of shards, what the block's rule is named after.
        name: Its wildcards or block, e.g. `s_ldm/00003` or `s_ldm/00000-00015`; with the rule it names log and benchmark.
        outputs: Declared files or folders; the last one is written last.
        locked: The outputs beside which its lock files lie: one per shard, none for jobs that take no lock.
        work: Folders of its resumable state: one per shard, none for jobs that have none.
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
        *_view_jobs(config),
        *_consistency_jobs(config),
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
    paths += [protocol.root for protocol in config.propagation.datasets.values()]
    for marker in sorted({marker for path in paths for marker in jobs.demo_inputs(path)}):
        yield Job("demo", "demo data", "draw_demo_data", "demo", (marker,))


def _shard_jobs(config: Config, jobs: Jobs) -> Iterator[Job]:
    for dataset in config.shards.datasets:
        folder, group = names.shards_dir(dataset), f"shards of {dataset}{_per_job(config)}"
        manifest = f"{folder}/{names.MANIFEST}"
        yield Job("shards", f"list of {dataset}", "write_manifest", dataset, (manifest,), (manifest,))
        for block in Blocks(config).of_dataset(dataset):
            yield _images_job("shards", group, "write_shard", block, folder)
        yield Job(
            "shards", f"check of {dataset}", "summarise_shards", dataset, (f"{folder}/summary.csv", jobs.shard_gate(dataset))
        )


def _view_jobs(config: Config) -> Iterator[Job]:
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
            yield from _embedding_jobs(name, config)
        rule, group = RULE_OF_KIND[source.kind], f"shards of {name}{_per_job(config)}"
        for block in Blocks(config).of_source(name):
            kept = tuple(block.files(f"work/views/sample/{name}", "")) if rule in RESUMED_RULES else ()
            yield _images_job("views", group, rule, block, names.views_dir(name), kept)


def _embedding_jobs(source: str, config: Config) -> Iterator[Job]:
    for block in Blocks(config).of_source(source):
        tables = tuple(block.files(names.embeddings_dir(source), ".parquet"))
        yield Job("views", f"embeddings of {source}{_per_job(config)}", "embed_images", str(block), tables, tables)
    index = f"{names.embeddings_dir(source)}/index.faiss"
    yield Job("views", f"index of {source}", "index_embeddings", source, (index,), (index,))


def _consistency_jobs(config: Config) -> Iterator[Job]:
    for source in config.consistency.sources:
        for block in Blocks(config).of_source(source):
            tables, work = (
                block.files(*parts) for parts in ((names.consistency_dir(source), ".parquet"), (f"work/consistency/{source}", ""))
            )
            group = f"shards of {source}{_per_job(config)}"
            yield Job("consistency", group, "score_views", str(block), tuple(tables), tuple(tables), tuple(work))
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
        for name in config.propagation.datasets:
            table = names.propagation_table(encoder, name)
            work = f"work/propagation/{encoder}/{name}"
            outputs = (names.propagation_strips(encoder, name), table)
            yield Job("propagation", "evaluation sets", "propagate_labels", f"{encoder}/{name}", outputs, (table,), (work,))
    summary = f"{names.RESULTS}/propagation/summary"
    yield Job("propagation", "summary", "summarise_propagation", "summary", (f"{summary}.csv", f"{summary}.parquet"))


def _images_job(stage: str, group: str, rule: str, block: Block, folder: str, work: tuple[str, ...] = ()) -> Job:
    """A job that writes a tar and then an index for every shard of a block."""
    tars = tuple(block.files(folder, ".tar"))
    return Job(stage, group, rule, str(block), (*tars, *block.files(folder, ".parquet")), tars, work)


def _per_job(config: Config) -> str:
    return f", {config.runtime.shards_per_job} a job" if config.runtime.shards_per_job > 1 else ""
