# Stage report: the page people look at.
rule write_report:
    input:
        shards=JOBS.all_shard_gates(),
        views=JOBS.all_view_files(),
        consistency="results/consistency/summary.parquet",
        encoders=JOBS.all_encoder_files(),
        propagation="results/propagation/summary.parquet",
        strips=JOBS.propagation_strips(),
    output:
        report(
            directory("results/report"),
            htmlindex="index.html",
            caption="../report/page.rst",
            category="Report",
        ),
    log:
        "logs/write_report/report.log",
    benchmark:
        "benchmarks/write_report/report.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=JOBS.report_settings().canonical_json(exclude={"tables"}),
    message:
        "Write the report to results/report/index.html"
    shell:
        "cdgmae report write"
        " --settings {params.settings:q}"
        " --results results"
        " --output {output:q}"
        " > {log} 2>&1"


rule report:
    input:
        "results/report",
