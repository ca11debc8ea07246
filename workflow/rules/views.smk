# Stage views: M views of every real image. A source's kind says whether make_views or gather_views fills its bags, and what they read.
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
        encoder=lambda w: JOBS.loadable_encoder(
            JOBS.generator_training(w.generator).encoder
        ).canonical_json(),
        shards=lambda w: names.shards_dir(JOBS.generator_training(w.generator).dataset),
        seed=CONFIG.seed,
        work="work/views/train_generator/{generator}",
        trackers="logs/trackers/generators/{generator}",
    message:
        "Train generator {wildcards.generator}"
    shell:
        launched(
            "cdgmae views train-generator"
            " --settings {params.settings:q}"
            " --seed {params.seed}"
            " --shards {params.shards:q}"
            " --encoder {params.encoder:q}"
            " --output {output:q}"
            " --work {params.work:q}"
            " --tracker-dir {params.trackers:q}"
            " --threads {threads}"
            " > {log} 2>&1"
        )


rule make_views:
    input:
        real=lambda w: JOBS.real_files(w.source, w.shard),
        others=lambda w: JOBS.view_inputs(w.source),
    output:
        tar="results/views/{source}/{shard}.tar",
        index="results/views/{source}/{shard}.parquet",
    log:
        "logs/make_views/{source}/{shard}.log",
    benchmark:
        "benchmarks/make_views/{source}/{shard}.tsv"
    wildcard_constraints:
        source=JOBS.sources_on_gpu(True),
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
        mem_mb=16000,
        runtime=1440,
        batch_size=lambda w: JOBS.view_batch_size(w.source),
    params:
        settings=lambda w: JOBS.view_settings(w.source),
        inputs=lambda w: JOBS.view_input_flags(w.source),
        seed=CONFIG.seed,
        work="work/views/make/{source}/{shard}",
    message:
        "Make views {wildcards.source}, shard {wildcards.shard}"
    shell:
        launched(
            "cdgmae views make"
            " --settings {params.settings:q}"
            " --seed {params.seed}"
            " --shard {input.real[0]:q}"
            " {params.inputs}"
            " --output {output.tar:q}"
            " --work {params.work:q}"
            " --batch-size {resources.batch_size}"
            " --threads {threads}"
            " > {log} 2>&1"
        )


# The same without a GPU, for sources that fill bags with images that exist.
use rule make_views as gather_views with:
    log:
        "logs/gather_views/{source}/{shard}.log",
    benchmark:
        "benchmarks/gather_views/{source}/{shard}.tsv"
    wildcard_constraints:
        source=JOBS.sources_on_gpu(False),
    resources:
        launcher="none",
        nodes=1,
        tasks_per_node=1,
        mem_mb=16000,
        runtime=240,
        batch_size=1,
    message:
        "Gather views {wildcards.source}, shard {wildcards.shard}"


rule embed_images:
    input:
        real=lambda w: JOBS.real_files(w.source, w.shard),
        encoder=lambda w: JOBS.encoder_files(JOBS.knn_source(w.source).encoder),
    output:
        "results/embeddings/{source}/{shard}.parquet",
    log:
        "logs/embed_images/{source}/{shard}.log",
    benchmark:
        "benchmarks/embed_images/{source}/{shard}.tsv"
    wildcard_constraints:
        source=JOBS.sources_of_kind("knn"),
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
        mem_mb=8000,
        runtime=240,
    params:
        settings=lambda w: JOBS.knn_source(w.source).embedding.canonical_json(),
        encoder=lambda w: JOBS.loadable_encoder(
            JOBS.knn_source(w.source).encoder
        ).canonical_json(),
    message:
        "Embed images for {wildcards.source}, shard {wildcards.shard}"
    shell:
        launched(
            "cdgmae views embed"
            " --settings {params.settings:q}"
            " --shard {input.real[0]:q}"
            " --encoder {params.encoder:q}"
            " --output {output:q}"
            " --threads {threads}"
            " > {log} 2>&1"
        )


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
        source=JOBS.sources_of_kind("knn"),
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        mem_mb=32000,
        runtime=240,
    params:
        settings=lambda w: JOBS.knn_source(w.source).index.canonical_json(),
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


rule views:
    input:
        JOBS.all_view_files(),
