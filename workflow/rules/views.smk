# Stage views: a generator (trained here unless the config gives a folder), then M views of every real image.
rule train_generator:
    input:
        gate=lambda w: ancient(
            JOBS.shard_gate(JOBS.generator_training(w.generator).dataset)
        ),
        shards=lambda w: JOBS.shard_files(JOBS.generator_training(w.generator).dataset),
        encoder=lambda w: JOBS.encoder_files(
            JOBS.generator_training(w.generator).encoder
        ),
        first_stage=lambda w: JOBS.first_stage_folders(w.generator),
    output:
        directory("results/generators/{generator}"),
    log:
        "logs/train_generator/{generator}.log",
    benchmark:
        "benchmarks/train_generator/{generator}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        mem_mb=8000,
        runtime=2880,
    params:
        settings=lambda w: JOBS.generator_training(w.generator).canonical_json(),
        encoder=lambda w: JOBS.encoder_reference(
            JOBS.generator_training(w.generator).encoder
        ),
        shards=lambda w: names.shards_dir(JOBS.generator_training(w.generator).dataset),
        seed=CONFIG.seed,
        work="work/views/train_generator/{generator}",
    message:
        "Train generator {wildcards.generator}"
    shell:
        "cdgmae views train-generator"
        " --settings {params.settings:q}"
        " --seed {params.seed}"
        " --shards {params.shards:q}"
        " --encoder {params.encoder:q}"
        " --output {output:q}"
        " --work {params.work:q}"
        " --threads {threads}"
        " > {log} 2>&1"


rule sample_views:
    input:
        gate=lambda w: ancient(JOBS.shard_gate(JOBS.dataset_of(w.source))),
        tar=lambda w: JOBS.real_shard(w.source, w.shard),
        generator=lambda w: JOBS.generator_folder(w.source),
    output:
        tar="results/views/{source}/{shard}.tar",
        index="results/views/{source}/{shard}.parquet",
    log:
        "logs/sample_views/{source}/{shard}.log",
    benchmark:
        "benchmarks/sample_views/{source}/{shard}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        mem_mb=8000,
        runtime=1440,
    params:
        settings=lambda w: JOBS.sampling_settings(w.source),
        seed=CONFIG.seed,
        work="work/views/sample/{source}/{shard}",
    message:
        "Sample views {wildcards.source}, shard {wildcards.shard}"
    shell:
        "cdgmae views sample"
        " --settings {params.settings:q}"
        " --seed {params.seed}"
        " --shard {input.tar:q}"
        " --generator {input.generator:q}"
        " --output {output.tar:q}"
        " --work {params.work:q}"
        " --threads {threads}"
        " > {log} 2>&1"


rule views:
    input:
        JOBS.all_view_files(),
