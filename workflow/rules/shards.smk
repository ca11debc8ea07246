# Stage shards: images -> manifest -> one tar + index per shard -> summary, the gate for everything after.
rule write_manifest:
    input:
        lambda w: JOBS.dataset_inputs(w.dataset),
    output:
        "results/shards/{dataset}/manifest.parquet",
    log:
        "logs/write_manifest/{dataset}.log",
    benchmark:
        "benchmarks/write_manifest/{dataset}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=lambda w: JOBS.listing_settings(w.dataset),
        seed=CONFIG.seed,
    message:
        "List the images of {wildcards.dataset}"
    shell:
        "cdgmae shards manifest"
        " --settings {params.settings:q}"
        " --seed {params.seed}"
        " --output {output:q}"
        " > {log} 2>&1"


rule write_shard:
    input:
        manifest="results/shards/{dataset}/manifest.parquet",
    output:
        tar="results/shards/{dataset}/{shard}.tar",
        index="results/shards/{dataset}/{shard}.parquet",
    log:
        "logs/write_shard/{dataset}/{shard}.log",
    benchmark:
        "benchmarks/write_shard/{dataset}/{shard}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=lambda w: JOBS.packing_settings(w.dataset),
        finished="work/finished/shards/{dataset}",
    message:
        "Write {wildcards.dataset}, shard {wildcards.shard}"
    shell:
        "cdgmae shards write"
        " --settings {params.settings:q}"
        " --manifest {input.manifest:q}"
        " --output {output.tar:q}"
        " --threads {threads}"
        " --finished {params.finished:q}"
        " > {log} 2>&1"


rule summarise_shards:
    input:
        manifest="results/shards/{dataset}/manifest.parquet",
        shards=lambda w: JOBS.shard_files(w.dataset),
    output:
        table="results/shards/{dataset}/summary.parquet",
        csv=report(
            "results/shards/{dataset}/summary.csv",
            caption="../report/shards.rst",
            category="Shards",
            labels={"data set": "{dataset}"},
        ),
    log:
        "logs/summarise_shards/{dataset}.log",
    benchmark:
        "benchmarks/summarise_shards/{dataset}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=lambda w: JOBS.gate_settings(w.dataset),
    message:
        "Check the shards of {wildcards.dataset}"
    shell:
        "cdgmae shards summarise"
        " --settings {params.settings:q}"
        " --manifest {input.manifest:q}"
        " --output {output.table:q}"
        " > {log} 2>&1"


rule shards:
    input:
        JOBS.all_shard_files(),
        JOBS.all_shard_gates(),
