# Stage shards: images -> manifest -> one tar + index per shard -> summary, the gate for everything after. The list of what the manifest
# left out is a job of its own, so that a lost one makes nothing else again; it takes a second and is none for a cluster.
localrules:
    list_left_out,


rule write_manifest:
    input:
        of(shards.dataset_inputs),
    output:
        manifest="results/shards/{dataset}/manifest.parquet",
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
        settings=of(shards.listing_settings),
        images=of(shards.source_digest),
        seed=CONFIG.seed,
    message:
        "List the images of {wildcards.dataset}"
    shell:
        "cdgmae shards manifest"
        " --settings {params.settings:q}"
        " --seed {params.seed}"
        " --output {output.manifest:q}"
        " > {log} 2>&1"


rule list_left_out:
    input:
        manifest="results/shards/{dataset}/manifest.parquet",
    output:
        "results/shards/{dataset}/left_out.csv",
    log:
        "logs/list_left_out/{dataset}.log",
    benchmark:
        "benchmarks/list_left_out/{dataset}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    message:
        "List what was left out of {wildcards.dataset}"
    shell:
        "cdgmae shards left-out" " {input.manifest:q}" " > {log} 2>&1"


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
        **ON_CPUS,
        mem_mb=4000,
        runtime=60,
    params:
        settings=of(shards.packing_settings),
    message:
        "Write {wildcards.dataset}, shard {wildcards.shard}"
    shell:
        launched(
            "cdgmae shards write"
            " --settings {params.settings:q}"
            " --manifest {input.manifest:q}"
            " --output {output.tar:q}"
            " --threads {threads}"
            " > {log} 2>&1"
        )


rule summarise_shards:
    input:
        manifest="results/shards/{dataset}/manifest.parquet",
        shards=of(shards.shard_files),
    output:
        table="results/shards/{dataset}/summary.parquet",
        csv=report(
            "results/shards/{dataset}/summary.csv",
            caption="../report/shards.rst",
            category="Shards",
            labels={"data set": "{dataset}"},
        ),
        bad_images="results/shards/{dataset}/bad_images.csv",
    log:
        "logs/summarise_shards/{dataset}.log",
    benchmark:
        "benchmarks/summarise_shards/{dataset}.tsv"
    priority: 100  # before hours are spent on images that do not pass
    conda:
        "../../envs/cdgmae.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
        max_bad_fraction=of(shards.max_bad_images),
    params:
        settings=of(shards.summary_settings),
    message:
        "Check the shards of {wildcards.dataset}"
    shell:
        "cdgmae shards summarise"
        " --settings {params.settings:q}"
        " --manifest {input.manifest:q}"
        " --max-bad-fraction {resources.max_bad_fraction}"
        " --output {output.table:q}"
        " > {log} 2>&1"


rule shards:
    input:
        shards.results(CONFIG),
