# Stage consistency: GS, LS and NPS of every real-vs-view pair, then one row per source.
for block in BLOCKS.of_sources():

    rule:
        name:
            block.rule("score_views")
        input:
            real=block.each(lambda source, shard: [JOBS.real_shard(source, shard)]),
            views=block.each(JOBS.scored_views),
            encoder=JOBS.encoder_files(CONFIG.consistency.encoder),
        output:
            tables=block.files(names.consistency_dir(block.name), ".parquet"),
        log:
            f"logs/score_views/{block}.log",
        benchmark:
            f"benchmarks/score_views/{block}.tsv"
        conda:
            "../../envs/cdgmae.yaml"
        threads: CONFIG.runtime.threads
        resources:
            **ON_GPUS,
            mem_mb=8000,
            runtime=240,
        params:
            settings=block.of(JOBS.scoring_settings),
            views=block.of(JOBS.scored_views_flag),
            encoder=lambda w: JOBS.loadable_encoder(
                CONFIG.consistency.encoder
            ).canonical_json(),
            source=block.name,
            kind=block.of(JOBS.source_kind),
            real=block.flags("--real", JOBS.real_shard),
            folder=block.of(names.consistency_dir),
            work=f"work/consistency/{block.name}",
            finished=f"work/finished/consistency/{block.name}",
        message:
            f"Score views {block.words}"
        shell:
            "cdgmae cluster launch {resources.launcher}"
            " --nodes {resources.nodes} --ranks-per-node {resources.tasks_per_node} --"
            " cdgmae consistency score"
            " --settings {params.settings:q}"
            " {params.real}"
            " {params.views}"
            " --encoder {params.encoder:q}"
            " --source {params.source}"
            " --kind {params.kind}"
            " --output {params.folder:q}"
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
