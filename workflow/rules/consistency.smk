# Stage consistency: GS, LS and NPS of every real-vs-view pair, then one row per source.
rule score_views:
    input:
        real=lambda w: JOBS.real_files(w.source, w.shard),
        views=lambda w: JOBS.scored_views(w.source, w.shard),
        encoder=JOBS.encoder_files(CONFIG.consistency.encoder),
    output:
        "results/consistency/{source}/{shard}.parquet",
    log:
        "logs/score_views/{source}/{shard}.log",
    benchmark:
        "benchmarks/score_views/{source}/{shard}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
        mem_mb=8000,
        runtime=240,
    params:
        settings=lambda w: JOBS.scoring_settings(w.source),
        views=lambda w: JOBS.scored_views_flag(w.source, w.shard),
        encoder=lambda w: JOBS.encoder_reference(CONFIG.consistency.encoder),
        kind=lambda w: JOBS.source_kind(w.source),
        work="work/consistency/{source}/{shard}",
        finished="work/finished/consistency/{source}",
    message:
        "Score views {wildcards.source}, shard {wildcards.shard}"
    shell:
        "cdgmae cluster launch {resources.launcher}"
        " --nodes {resources.nodes} --ranks-per-node {resources.tasks_per_node} --"
        " cdgmae consistency score"
        " --settings {params.settings:q}"
        " --real {input.real[0]:q}"
        " {params.views}"
        " --encoder {params.encoder:q}"
        " --source {wildcards.source}"
        " --kind {params.kind}"
        " --output {output:q}"
        " --work {params.work:q}"
        " --threads {threads}"
        " --finished {params.finished:q}"
        " > {log} 2>&1"


rule summarise_consistency:
    input:
        JOBS.consistency_tables(),
    output:
        table="results/consistency/summary.parquet",
        csv=report(
            "results/consistency/summary.csv",
            caption="../report/consistency.rst",
            category="Consistency",
            labels={"source": "all"},
        ),
    log:
        "logs/summarise_consistency/summary.log",
    benchmark:
        "benchmarks/summarise_consistency/summary.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    message:
        "Summarise consistency"
    shell:
        "cdgmae consistency summarise"
        " --output {output.table:q}"
        " {input:q}"
        " > {log} 2>&1"


rule consistency:
    input:
        "results/consistency/summary.parquet",
