# Stage shards: images -> manifest -> one tar + index per shard -> summary, the gate for everything after.
# The manifest stands for all shards in the inputs of the views, so other packing lists the images again.
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
        packing=lambda w: JOBS.packing_settings(w.dataset),
        seed=CONFIG.seed,
    message:
        "List the images of {wildcards.dataset}"
    shell:
        "cdgmae shards manifest"
        " --settings {params.settings:q}"
        " --seed {params.seed}"
        " --output {output:q}"
        " > {log} 2>&1"


for block in BLOCKS.of_datasets():

    rule:
        name:
            block.rule("write_shard")
        input:
            manifest=f"{names.shards_dir(block.name)}/manifest.parquet",
        output:
            tars=block.files(names.shards_dir(block.name), ".tar"),
            indexes=block.files(names.shards_dir(block.name), ".parquet"),
        log:
            f"logs/write_shard/{block}.log",
        benchmark:
            f"benchmarks/write_shard/{block}.tsv"
        conda:
            "../../envs/cdgmae.yaml"
        threads: CONFIG.runtime.threads
        resources:
            mem_mb=4000,
            runtime=60,
        params:
            settings=block.of(JOBS.packing_settings),
            tars=block.flags("--output", JOBS.shard_file),
            finished=f"work/finished/shards/{block.name}",
        message:
            f"Write {block.words}"
        shell:
            "cdgmae shards write"
            " --settings {params.settings:q}"
            " --manifest {input.manifest:q}"
            " {params.tars}"
            " --threads {threads}"
            " --finished {params.finished:q}"
            " > {log} 2>&1"


rule summarise_shards:
    input:
        manifest="results/shards/{dataset}/manifest.parquet",
        tars=lambda w: JOBS.shard_files(w.dataset),
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
        JOBS.all_shard_gates(),
