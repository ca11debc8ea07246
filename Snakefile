# CDG-MAE as a workflow: shards -> views -> consistency
#                                   \-> pretrain -> propagation -> report
# Without --configfile the embedded demo (config.yaml) runs; with it, exactly the given files, merged in order.

import gc

from snakemake.utils import min_version

from cdgmae import names
from cdgmae.config import check_config, check_paths
from cdgmae.jobs import Jobs, export_environment
from cdgmae.paper import PAPER_TABLES

min_version("9.20")

# A plan of thousands of jobs is millions of objects that stay; looking for garbage among them again and again takes a quarter of
# the time (perf/dag.py).
gc.set_threshold(200_000, 50, 100)


if not workflow.config_settings.configfiles:

    configfile: "config.yaml"


# Used with --sdm apptainer alone: the image that envs/cdgmae.def builds.
container: "cdgmae.sif"


CONFIG = check_config(
    config,
    origin=", ".join(map(str, workflow.config_settings.configfiles)) or "config.yaml",
)
check_paths(CONFIG)

JOBS = Jobs(CONFIG)

# Machine settings reach the jobs through the environment: parameter of no rule, so changing them reruns nothing.
export_environment(CONFIG)

# How a GPU rule starts its command: here as it is, on a cluster as the profile says (workflow/profiles/slurm). Resources, not params:
# where a job runs reruns nothing. That `mpi` is there, if only empty, leaves starting processes to the rule itself.
ON_GPUS = {"mpi": "", "nodes": 1, "tasks_per_node": 1, "launcher": "none"}


wildcard_constraints:
    dataset="[A-Za-z0-9_-]+",
    source="[A-Za-z0-9_-]+",
    generator="[A-Za-z0-9_-]+",
    run="[A-Za-z0-9_-]+",
    encoder="[A-Za-z0-9_-]+",
    shard=r"\d{5}",
    seed=r"\d+",
    clip_set="davis|vip|jhmdb",


rule all:
    default_target: True
    input:
        JOBS.all_shard_files(),
        JOBS.all_view_files(),
        JOBS.consistency_tables(),
        JOBS.all_encoder_files(),
        JOBS.propagation_tables(),
        "results/report",
        [names.paper_table(table, "html") for table in JOBS.named_tables()],


include: "workflow/rules/demo.smk"
include: "workflow/rules/shards.smk"
include: "workflow/rules/views.smk"
include: "workflow/rules/consistency.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/propagation.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/tables.smk"
