# CDG-MAE as a workflow: shards -> views -> consistency
#                                   \-> pretrain -> propagation -> report
# Without --configfile the embedded demo (config.yaml) runs; with it, exactly the given files, merged in order.

import gc

from snakemake.logging import logger
from snakemake.utils import min_version

from cdgmae import names
from cdgmae.workflow import consistency, pretrain, propagation, shards, views
from cdgmae.workflow import report as pages  # beside Snakemake's own `report`
from cdgmae.workflow.damage import force_damaged
from cdgmae.workflow.environment import export_environment
from cdgmae.workflow.last_run import changes_since_last_run, remember_run
from cdgmae.workflow.messages.run_messages import report_place, watch_run
from cdgmae.workflow.named_files import check_run
from cdgmae.paper import PAPER_TABLES

min_version("9.20")

# A plan of thousands of jobs is millions of objects that stay; looking for garbage among them again and again takes a quarter of
# the time (perf/dag.py).
gc.set_threshold(200_000, 50, 100)


if not workflow.config_settings.configfiles:

    configfile: "config.yaml"


# Used with --sdm apptainer alone: the image that envs/cdgmae.def builds.
container: "cdgmae.sif"


CONFIG_FILES = workflow.config_settings.configfiles or ["config.yaml"]
CONFIG = check_run(config, ", ".join(map(str, CONFIG_FILES)), CONFIG_FILES)

# Machine settings reach the jobs through the environment: parameter of no rule, so changing them reruns nothing.
export_environment(CONFIG)

# A failed job is shown with the end of its log; one that would fail again is not tried again. What is damaged counts as lost. A run, also a
# dry one, begins with what changed since the last.
watch_run(
    workflow, force_damaged(workflow, CONFIG), lambda: changes_since_last_run(CONFIG)
)


onstart:
    planned = (file for job in workflow.dag.needrun_jobs() for file in job.output)
    remember_run(config, CONFIG_FILES, workflow.main_snakefile, planned)
    shards.forget_failed_checks(CONFIG)


onsuccess:
    if (place := report_place()) is not None:
        logger.info(place)


wildcard_constraints:
    dataset="[A-Za-z0-9_-]+",
    source="[A-Za-z0-9_-]+",
    generator="[A-Za-z0-9_-]+",
    run="[A-Za-z0-9_-]+",
    encoder="[A-Za-z0-9_-]+",
    shard=r"\d{5}",
    seed=r"\d+",
    evaluation_set="[A-Za-z0-9_-]+",


rule all:
    default_target: True
    input:
        [
            stage.results(CONFIG)
            for stage in (shards, views, consistency, pretrain, propagation, pages)
        ],


include: "workflow/rules/launching.smk"
include: "workflow/rules/demo.smk"
include: "workflow/rules/shards.smk"
include: "workflow/rules/views.smk"
include: "workflow/rules/consistency.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/propagation.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/tables.smk"
