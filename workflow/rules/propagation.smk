# Stage propagation: every encoder on every clip set, training-free, then one row per encoder.
rule propagate_labels:
    input:
        demo=of(propagation.set_inputs),
        encoder=of(propagation.judged_files),
    output:
        table=report(
            "results/propagation/{encoder}/{clip_set}.parquet",
            caption="../report/sequences.rst",
            category="Propagation",
            labels={"encoder": "{encoder}", "clip set": "{clip_set}"},
        ),
        strips=directory("results/propagation/{encoder}/strips/{clip_set}"),
    log:
        "logs/propagate_labels/{encoder}/{clip_set}.log",
    benchmark:
        "benchmarks/propagate_labels/{encoder}/{clip_set}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
        mem_mb=8000,
        runtime=480,
    params:
        settings=of(propagation.protocol),
        encoder=of(propagation.loadable_encoder),
        work="work/propagation/{encoder}/{clip_set}",
    message:
        "Propagate labels on {wildcards.clip_set} with {wildcards.encoder}"
    shell:
        launched(
            "cdgmae propagation run {wildcards.clip_set}"
            " --settings {params.settings:q}"
            " --encoder {params.encoder:q}"
            " --name {wildcards.encoder}"
            " --output $(dirname {output.table:q})"
            " --strips"
            " --work {params.work:q}"
            " --threads {threads}"
            " > {log} 2>&1"
        )


rule summarise_propagation:
    input:
        propagation.propagation_tables(CONFIG),
    output:
        table="results/propagation/summary.parquet",
        csv=report(
            "results/propagation/summary.csv",
            caption="../report/propagation.rst",
            category="Propagation",
            labels={"encoder": "all", "clip set": "all"},
        ),
    log:
        "logs/summarise_propagation/summary.log",
    benchmark:
        "benchmarks/summarise_propagation/summary.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    message:
        "Summarise propagation"
    shell:
        "cdgmae propagation summarise"
        " --output {output.table:q}"
        " {input:q}"
        " > {log} 2>&1"


rule propagation:
    input:
        propagation.results(CONFIG),
