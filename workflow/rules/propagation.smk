# Stage propagation: every encoder on every evaluation set, training-free, then one summary.
rule propagate_labels:
    input:
        demo=lambda w: JOBS.demo_inputs(JOBS.protocol(w.set).root),
        encoder=lambda w: JOBS.encoder_files(JOBS.judged_encoder(w.encoder)),
    output:
        table=report(
            "results/propagation/{encoder}/{set}.parquet",
            caption="../report/sequences.rst",
            category="Propagation",
            labels={"encoder": "{encoder}", "set": "{set}"},
        ),
        strips=directory("results/propagation/{encoder}/strips/{set}"),
    log:
        "logs/propagate_labels/{encoder}/{set}.log",
    benchmark:
        "benchmarks/propagate_labels/{encoder}/{set}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
        mem_mb=8000,
        runtime=480,
    params:
        settings=lambda w: JOBS.protocol(w.set).canonical_json(),
        encoder=lambda w: JOBS.loadable_encoder(
            JOBS.judged_encoder(w.encoder)
        ).canonical_json(),
        kind=lambda w: JOBS.kind(w.set),
        seed=lambda w: JOBS.seed_option(w.encoder),
        work="work/propagation/{encoder}/{set}",
    message:
        "Propagate labels on {wildcards.set} with {wildcards.encoder}"
    shell:
        launched(
            "cdgmae propagation run {params.kind}"
            " --set {wildcards.set}"
            " --settings {params.settings:q}"
            " --encoder {params.encoder:q}"
            " --name {wildcards.encoder} {params.seed}"
            " --output $(dirname {output.table:q})"
            " --strips"
            " --work {params.work:q}"
            " --threads {threads}"
            " > {log} 2>&1"
        )


rule summarise_propagation:
    input:
        JOBS.propagation_tables(),
    output:
        table="results/propagation/summary.parquet",
        csv=report(
            "results/propagation/summary.csv",
            caption="../report/propagation.rst",
            category="Propagation",
            labels={"encoder": "all", "set": "all"},
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
        "results/propagation/summary.parquet",
