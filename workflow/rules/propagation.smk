# Stage propagation: every encoder on every evaluation set, training-free, then one summary.


# The copy of DAVIS that published numbers rest on, for sets with `protocol: published`. The list of sequences is written last; files of an
# interrupted copy are kept.
rule prepare_davis:
    input:
        demo=of(propagation.source_inputs),
    output:
        "results/evaluation_sets/{evaluation_set}/ImageSets/2017/val.txt",
    log:
        "logs/prepare_davis/{evaluation_set}.log",
    benchmark:
        "benchmarks/prepare_davis/{evaluation_set}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        root=of(propagation.source_root),
        clips=of(propagation.source_digest),
        target="results/evaluation_sets/{evaluation_set}",
    message:
        "Prepare {wildcards.evaluation_set} as published"
    shell:
        "cdgmae propagation prepare-davis"
        " --root {params.root:q}"
        " --output {params.target:q}"
        " > {log} 2>&1"


rule propagate_labels:
    input:
        demo=of(propagation.set_inputs),
        encoder=of(propagation.judged_files),
    output:
        table=report(
            "results/propagation/{encoder}/{evaluation_set}.parquet",
            caption="../report/sequences.rst",
            category="Propagation",
            labels={"encoder": "{encoder}", "set": "{evaluation_set}"},
        ),
        strips=directory("results/propagation/{encoder}/strips/{evaluation_set}"),
    log:
        "logs/propagate_labels/{encoder}/{evaluation_set}.log",
    benchmark:
        "benchmarks/propagate_labels/{encoder}/{evaluation_set}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
        mem_mb=8000,
        runtime=480,
    params:
        settings=of(propagation.protocol),
        clips=of(propagation.clips_digest),
        encoder=of(propagation.loadable_encoder),
        given=of(propagation.given_files),
        kind=of(propagation.kind),
        seed=of(propagation.seed_option),
        work="work/propagation/{encoder}/{evaluation_set}",
    message:
        "Propagate labels on {wildcards.evaluation_set} with {wildcards.encoder}"
    shell:
        launched(
            "cdgmae propagation run {params.kind}"
            " --set {wildcards.evaluation_set}"
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
        propagation.propagation_tables(CONFIG),
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
        propagation.results(CONFIG),
        of(pretrain.all_images),
