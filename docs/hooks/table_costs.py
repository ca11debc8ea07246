"""The page of what each of the paper's tables needs: overlay, command, jobs, trainings and bytes, counted from the configurations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cdgmae.config import Config, load_config
from cdgmae.paper import PAPER_TABLES
from cdgmae.pretrain.flops import gpu_hours
from cdgmae.views.sampling.cost import Rate, plan_sampling
from cdgmae.workflow import consistency, propagation
from cdgmae.workflow.report import table_rows

EXPERIMENTS = Path(__file__).parents[2] / "workflow/experiments"
IMAGES = 1_281_167
"""Images of ImageNet-1K, the data set of every table."""

VIEW_BYTES = 40_000
"""Of a view of 256 pixels as JPEG of quality 95, about."""

TFLOPS = 400.0
"""Sustained by an H100: 40 % of its bf16 peak."""

SECONDS_PER_VIEW = 0.05
"""What an H100 shall need per view (docs/gpu.md)."""

HEAD = f"""\
# What the paper's tables cost

A table is a target: the command makes what is missing for it, and a second table finds the views and encoders that the first one left. Every run is
trained with each of the paper's three seeds. `-n` at the end shows the plan, `--workflow-profile workflow/profiles/slurm` sends it to a cluster.

GPU hours are those of the trainings, counted from their operations at {TFLOPS:.0f} TFLOP/s, which is 40 % of an H100's bf16 peak; they have not been
measured. Those of the views depend on the generator: `cdgmae views plan --measure` says them; at {SECONDS_PER_VIEW} s per view of LDM-4 with 50 DDIM
steps, the goal for an H100 ([On a GPU](../gpu.md)), four views of every image take {4 * IMAGES * SECONDS_PER_VIEW / 3600:.0f} GPU hours.

Bytes are those of views drawn for {IMAGES:,} images at about {VIEW_BYTES // 1000} kB each, the same ones for every table that names their
source. What the settings are, and what proves them: [Reproducing the paper](../reproducing_the_paper.md).
"""


@dataclass(frozen=True, slots=True)
class TableCost:
    """What one table needs when nothing is there yet; jobs of rules that take seconds are left out."""

    view_jobs: int
    score_jobs: int
    trainings: int
    propagations: int
    training_hours: float
    drawn_views: int
    drawn_bytes: int


def configs_of(table: str) -> list[Path]:
    """The paper's settings and the table's overlay, if it needs one."""
    overlay = EXPERIMENTS / f"{table}.yaml"
    return [EXPERIMENTS / "paper.yaml", *([overlay] if overlay.exists() else [])]


def cost_of(table: str) -> TableCost:
    """Count what a table of the paper needs."""
    config = load_config(*configs_of(table))
    fillers = list(dict.fromkeys(name for names in table_rows(config, table).values() for name in names))
    scored = fillers if PAPER_TABLES[table].is_of_sources else []
    encoders = [] if scored else fillers
    judged = [propagation.judged_encoder(config, name) for name in encoders]
    runs = {(encoder.run, encoder.seed) for encoder in judged if encoder.run is not None}
    settings = [config.pretrain.runs[run] for run, _ in sorted(runs)]
    filled = {*scored, *(run.source for run in settings if run.trains_on_views)}
    with_files = [name for name in filled if config.views.sources[name].has_files]
    drawn = [_drawn(config, name) for name in with_files if config.views.sources[name].generator_name is not None]
    return TableCost(
        view_jobs=sum(consistency.num_shards(config, name) for name in with_files),
        score_jobs=sum(consistency.num_shards(config, name) for name in scored),
        trainings=len(runs),
        propagations=len(encoders) * len(config.propagation.datasets),
        training_hours=sum(gpu_hours(run, IMAGES, TFLOPS) for run in settings),
        drawn_views=sum(views for views, _ in drawn),
        drawn_bytes=sum(size for _, size in drawn),
    )


def _drawn(config: Config, source: str) -> tuple[int, int]:
    """Views that a generator draws for a source, and their bytes."""
    result = plan_sampling(
        IMAGES, consistency.num_shards(config, source), config.views.sources[source].num_views, Rate(1, VIEW_BYTES, ""), [1]
    )
    return result["views"], result["bytes"]


def table_costs_page() -> str:
    """Markdown with a command and a row of costs per table."""
    rows, commands = [], []
    for table in PAPER_TABLES:
        cost = cost_of(table)
        files = " ".join(f"workflow/experiments/{path.name}" for path in configs_of(table))
        commands.append(f"snakemake --configfile {files} -- {table}")
        size = f"{cost.drawn_views / 1e6:.1f} million, {cost.drawn_bytes / 1e9:.0f} GB" if cost.drawn_views else ""
        rows.append(
            f"| `{table}` | {cost.view_jobs or ''} | {cost.score_jobs or ''} | {cost.trainings or ''} | "
            f"{cost.training_hours:,.0f} | {cost.propagations or ''} | {size} |"
        )
    table = "\n".join(
        [
            "| target | jobs that fill bags | jobs that score | trainings | their GPU hours | propagations | drawn views |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ]
    )
    return f"{HEAD}\n{table}\n\n```sh\n" + "\n".join(commands) + "\n```\n"
