# Stage report: the paper's tables and figures, ours beside the paper's. Each is a target of its own; `tables` makes all, the
# default target those of which a row is configured. They take seconds: no jobs for a cluster.
localrules:
    write_table,


rule write_table:
    input:
        of(pages.table_inputs),
    output:
        html=report(
            "results/tables/{table}.html",
            caption="../report/table.rst",
            category="Paper tables",
            labels={"table": "{table}", "file": "page"},
        ),
        csv=report(
            "results/tables/{table}.csv",
            caption="../report/table.rst",
            category="Paper tables",
            labels={"table": "{table}", "file": "cells"},
        ),
        markdown="results/tables/{table}.md",
    log:
        "logs/write_table/{table}.log",
    benchmark:
        "benchmarks/write_table/{table}.tsv"
    wildcard_constraints:
        table="|".join(PAPER_TABLES),
    conda:
        "../../envs/cdgmae.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=of(pages.table_settings),
    message:
        "Write {wildcards.table} of the paper beside ours"
    shell:
        "cdgmae report table {wildcards.table}"
        " --settings {params.settings:q}"
        " --results results"
        " --output $(dirname {output.html:q})"
        " > {log} 2>&1"


for table in PAPER_TABLES:

    rule:
        name:
            table
        input:
            names.paper_table(table, "html"),
            lambda wildcards, table=table: pages.table_images(CONFIG, table),


rule tables:
    input:
        [names.paper_table(table, "html") for table in PAPER_TABLES],
        of(pretrain.all_images),
