# Stage consistency: GS, LS and NPS of every real-vs-view pair, then one row per source.
rule score_views:
    input:
        real=of(views.real_files),
        views=of(consistency.scored_views),
        encoder=of(consistency.scoring_encoder_files),
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
        batch_size=CONFIG.consistency.batch_size,
        max_bad_fraction=str(CONFIG.consistency.max_bad_fraction),
    params:
        settings=of(consistency.scoring_settings),
        views=of(consistency.scored_views_flag),
        encoder=of(consistency.scoring_encoder),
        given=of(consistency.given_files),
        kind=of(consistency.source_kind),
        work="work/consistency/{source}/{shard}",
    message:
        "Score views {wildcards.source}, shard {wildcards.shard}"
    shell:
        launched(
            "cdgmae consistency score"
            " --settings {params.settings:q}"
            " --real {input.real[0]:q}"
            " {params.views}"
            " --encoder {params.encoder:q}"
            " --source {wildcards.source}"
            " --kind {params.kind}"
            " --output {output:q}"
            " --work {params.work:q}"
            " --batch-size {resources.batch_size}"
            " --max-bad-fraction {resources.max_bad_fraction}"
            " --threads {threads}"
            " > {log} 2>&1"
        )


rule summarise_consistency:
    input:
        consistency.all_score_tables(CONFIG),
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
    params:
        settings=of(consistency.summary_settings),
    message:
        "Summarise consistency"
    shell:
        "cdgmae consistency summarise"
        " --settings {params.settings:q}"
        " --results results/consistency"
        " --output {output.table:q}"
        " > {log} 2>&1"


rule consistency:
    input:
        consistency.results(CONFIG),
