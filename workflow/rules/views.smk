# Stage views: M views of every real image. One rule per kind of source writes the same files; which, is said by source_pattern.
rule train_generator:
    input:
        gate=lambda w: JOBS.shard_gate(JOBS.generator_training(w.generator).dataset),
        shards=lambda w: JOBS.shard_files(JOBS.generator_training(w.generator).dataset),
        encoder=lambda w: JOBS.encoder_files(
            JOBS.generator_training(w.generator).encoder
        ),
        first_stage=lambda w: JOBS.first_stage_folders(w.generator),
    output:
        report(
            directory("results/generators/{generator}"),
            patterns=["{table}.parquet"],
            caption="../report/views.rst",
            category="Views",
            labels={"generator": "{generator}", "table": "{table}"},
        ),
    log:
        "logs/train_generator/{generator}.log",
    benchmark:
        "benchmarks/train_generator/{generator}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
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
        finished="work/finished/generators",
    message:
        "Train generator {wildcards.generator}"
    shell:
        "cdgmae cluster launch {resources.launcher}"
        " --nodes {resources.nodes} --ranks-per-node {resources.tasks_per_node} --"
        " cdgmae views train-generator"
        " --settings {params.settings:q}"
        " --seed {params.seed}"
        " --shards {params.shards:q}"
        " --encoder {params.encoder:q}"
        " --output {output:q}"
        " --work {params.work:q}"
        " --threads {threads}"
        " --finished {params.finished:q}"
        " > {log} 2>&1"


rule sample_views:
    input:
        real=lambda w: JOBS.real_files(w.source, w.shard),
        generator=lambda w: JOBS.generator_folder(w.source),
    output:
        tar="results/views/{source}/{shard}.tar",
        index="results/views/{source}/{shard}.parquet",
    log:
        "logs/sample_views/{source}/{shard}.log",
    benchmark:
        "benchmarks/sample_views/{source}/{shard}.tsv"
    wildcard_constraints:
        source=JOBS.source_pattern("s_ldm", "rcg"),
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
        mem_mb=8000,
        runtime=1440,
        batch_size=lambda w: JOBS.sampling_batch_size(w.source),
    params:
        settings=lambda w: JOBS.sampling_settings(w.source),
        seed=CONFIG.seed,
        work="work/views/sample/{source}/{shard}",
        finished="work/finished/views/{source}",
    message:
        "Sample views {wildcards.source}, shard {wildcards.shard}"
    shell:
        "cdgmae cluster launch {resources.launcher}"
        " --nodes {resources.nodes} --ranks-per-node {resources.tasks_per_node} --"
        " cdgmae views sample"
        " --settings {params.settings:q}"
        " --seed {params.seed}"
        " --shard {input.real[0]:q}"
        " --generator {input.generator:q}"
        " --output {output.tar:q}"
        " --work {params.work:q}"
        " --batch-size {resources.batch_size}"
        " --threads {threads}"
        " --finished {params.finished:q}"
        " > {log} 2>&1"


rule sample_pipeline:
    input:
        real=lambda w: JOBS.real_files(w.source, w.shard),
        pipeline=lambda w: JOBS.pipeline_files(w.source),
    output:
        tar="results/views/{source}/{shard}.tar",
        index="results/views/{source}/{shard}.parquet",
    log:
        "logs/sample_pipeline/{source}/{shard}.log",
    benchmark:
        "benchmarks/sample_pipeline/{source}/{shard}.tsv"
    wildcard_constraints:
        source=JOBS.source_pattern("diffusers"),
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
        mem_mb=16000,
        runtime=1440,
        batch_size=lambda w: JOBS.sampling_batch_size(w.source),
    params:
        settings=lambda w: JOBS.pipeline_settings(w.source),
        seed=CONFIG.seed,
        work="work/views/sample/{source}/{shard}",
        finished="work/finished/views/{source}",
    message:
        "Sample views from a pipeline for {wildcards.source}, shard {wildcards.shard}"
    shell:
        "cdgmae cluster launch {resources.launcher}"
        " --nodes {resources.nodes} --ranks-per-node {resources.tasks_per_node} --"
        " cdgmae views sample-pipeline"
        " --settings {params.settings:q}"
        " --seed {params.seed}"
        " --shard {input.real[0]:q}"
        " --output {output.tar:q}"
        " --work {params.work:q}"
        " --batch-size {resources.batch_size}"
        " --threads {threads}"
        " --finished {params.finished:q}"
        " > {log} 2>&1"


rule embed_images:
    input:
        real=lambda w: JOBS.real_files(w.source, w.shard),
        encoder=lambda w: JOBS.encoder_files(JOBS.source_encoder(w.source)),
    output:
        "results/embeddings/{source}/{shard}.parquet",
    log:
        "logs/embed_images/{source}/{shard}.log",
    benchmark:
        "benchmarks/embed_images/{source}/{shard}.tsv"
    wildcard_constraints:
        source=JOBS.source_pattern("knn"),
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
        mem_mb=8000,
        runtime=240,
    params:
        settings=lambda w: JOBS.source_settings(w.source, "embed"),
        encoder=lambda w: JOBS.encoder_reference(JOBS.source_encoder(w.source)),
        finished="work/finished/embeddings/{source}",
    message:
        "Embed images for {wildcards.source}, shard {wildcards.shard}"
    shell:
        "cdgmae cluster launch {resources.launcher}"
        " --nodes {resources.nodes} --ranks-per-node {resources.tasks_per_node} --"
        " cdgmae views embed"
        " --settings {params.settings:q}"
        " --shard {input.real[0]:q}"
        " --encoder {params.encoder:q}"
        " --output {output:q}"
        " --threads {threads}"
        " --finished {params.finished:q}"
        " > {log} 2>&1"


rule index_embeddings:
    input:
        lambda w: JOBS.embedding_tables(w.source),
    output:
        "results/embeddings/{source}/index.faiss",
    log:
        "logs/index_embeddings/{source}.log",
    benchmark:
        "benchmarks/index_embeddings/{source}.tsv"
    wildcard_constraints:
        source=JOBS.source_pattern("knn"),
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        mem_mb=32000,
        runtime=240,
    params:
        settings=lambda w: JOBS.source_settings(w.source, "index"),
        embeddings=lambda w: names.embeddings_dir(w.source),
        seed=CONFIG.seed,
    message:
        "Index the embeddings of {wildcards.source}"
    shell:
        "cdgmae views index"
        " --settings {params.settings:q}"
        " --seed {params.seed}"
        " --embeddings {params.embeddings:q}"
        " --output {output:q}"
        " --threads {threads}"
        " > {log} 2>&1"


rule gather_neighbours:
    input:
        real=lambda w: JOBS.real_files(w.source, w.shard),
        images=lambda w: JOBS.all_real_images(w.source),
        index="results/embeddings/{source}/index.faiss",
    output:
        tar="results/views/{source}/{shard}.tar",
        index="results/views/{source}/{shard}.parquet",
    log:
        "logs/gather_neighbours/{source}/{shard}.log",
    benchmark:
        "benchmarks/gather_neighbours/{source}/{shard}.tsv"
    wildcard_constraints:
        source=JOBS.source_pattern("knn"),
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        mem_mb=16000,
        runtime=240,
    params:
        settings=lambda w: JOBS.source_settings(w.source, "neighbours"),
        shards=lambda w: names.shards_dir(JOBS.dataset_of(w.source)),
        embeddings=lambda w: names.embeddings_dir(w.source),
        finished="work/finished/views/{source}",
    message:
        "Gather neighbours {wildcards.source}, shard {wildcards.shard}"
    shell:
        "cdgmae views neighbours"
        " --settings {params.settings:q}"
        " --shard {input.real[0]:q}"
        " --shards {params.shards:q}"
        " --embeddings {params.embeddings:q}"
        " --index {input.index:q}"
        " --output {output.tar:q}"
        " --threads {threads}"
        " --finished {params.finished:q}"
        " > {log} 2>&1"


rule gather_random:
    input:
        real=lambda w: JOBS.real_files(w.source, w.shard),
        images=lambda w: JOBS.all_real_images(w.source),
    output:
        tar="results/views/{source}/{shard}.tar",
        index="results/views/{source}/{shard}.parquet",
    log:
        "logs/gather_random/{source}/{shard}.log",
    benchmark:
        "benchmarks/gather_random/{source}/{shard}.tsv"
    wildcard_constraints:
        source=JOBS.source_pattern("random"),
    conda:
        "../../envs/cdgmae.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=lambda w: JOBS.source_settings(w.source, "random"),
        shards=lambda w: names.shards_dir(JOBS.dataset_of(w.source)),
        seed=CONFIG.seed,
        finished="work/finished/views/{source}",
    message:
        "Gather random images {wildcards.source}, shard {wildcards.shard}"
    shell:
        "cdgmae views random"
        " --settings {params.settings:q}"
        " --seed {params.seed}"
        " --shard {input.real[0]:q}"
        " --shards {params.shards:q}"
        " --output {output.tar:q}"
        " --finished {params.finished:q}"
        " > {log} 2>&1"


rule read_clips:
    input:
        real=lambda w: JOBS.real_files(w.source, w.shard),
    output:
        tar="results/views/{source}/{shard}.tar",
        index="results/views/{source}/{shard}.parquet",
    log:
        "logs/read_clips/{source}/{shard}.log",
    benchmark:
        "benchmarks/read_clips/{source}/{shard}.tsv"
    wildcard_constraints:
        source=JOBS.source_pattern("video"),
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        settings=lambda w: JOBS.clip_settings(w.source),
        seed=CONFIG.seed,
        finished="work/finished/views/{source}",
    message:
        "Read clips {wildcards.source}, shard {wildcards.shard}"
    shell:
        "cdgmae views video"
        " --settings {params.settings:q}"
        " --seed {params.seed}"
        " --shard {input.real[0]:q}"
        " --output {output.tar:q}"
        " --threads {threads}"
        " --finished {params.finished:q}"
        " > {log} 2>&1"


rule views:
    input:
        JOBS.all_view_files(),
