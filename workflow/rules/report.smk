# Stage report: the page people look at.
rule write_report:
    input:
        shards=shards.summaries(CONFIG),
        views=views.all_view_files(CONFIG),
        consistency=consistency.summaries(CONFIG)[-1:],
        encoders=pretrain.all_encoder_files(CONFIG),
        judged=propagation.all_judged_files(CONFIG),
        propagation=propagation.summaries(CONFIG)[-1:],
        strips=propagation.propagation_strips(CONFIG),
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
        settings=of(pages.report_settings),
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
        of(pretrain.all_images),
