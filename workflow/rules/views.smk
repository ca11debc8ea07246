# Stage views: M views of every real image. A source's kind says whether make_views or gather_views fills its bags, and what they read.
rule train_generator:
    input:
        gate=of(views.training_summary),
        shards=of(views.training_shards),
        encoder=of(views.conditioning_files),
        first_weights=of(views.first_weights),
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
        settings=of(views.generator_training),
        encoder=of(views.conditioning_encoder),
        given=of(views.given_for_training),
        shards=of(views.training_shards_folder),
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
        real=of(views.real_files),
        others=of(views.view_inputs),
    output:
        tar="results/views/{source}/{shard}.tar",
        index="results/views/{source}/{shard}.parquet",
    log:
        "logs/make_views/{source}/{shard}.log",
    benchmark:
        "benchmarks/make_views/{source}/{shard}.tsv"
    wildcard_constraints:
        source=views.sources_on_gpu(CONFIG, True),
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
        mem_mb=16000,
        runtime=1440,
        batch_size=of(views.view_batch_size),
        max_bad_fraction=of(views.max_bad_views),
    params:
        settings=of(views.view_settings),
        inputs=of(views.view_input_flags),
        given=of(views.given_files),
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
            " --max-bad-fraction {resources.max_bad_fraction}"
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
        source=views.sources_on_gpu(CONFIG, False),
    resources:
        **ON_CPUS,
        mem_mb=16000,
        runtime=240,
        batch_size=1,
        max_bad_fraction=of(views.max_bad_views),
    message:
        "Gather views {wildcards.source}, shard {wildcards.shard}"


rule embed_images:
    input:
        real=of(views.real_files),
        encoder=of(views.embedding_encoder_files),
    output:
        "results/embeddings/{source}/{shard}.parquet",
    log:
        "logs/embed_images/{source}/{shard}.log",
    benchmark:
        "benchmarks/embed_images/{source}/{shard}.tsv"
    wildcard_constraints:
        source=views.sources_of_kind(CONFIG, "knn"),
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
        mem_mb=8000,
        runtime=240,
    params:
        settings=of(views.embedding_settings),
        encoder=of(views.embedding_encoder),
        given=of(views.given_to_embed),
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
        of(views.embedding_tables),
    output:
        "results/embeddings/{source}/index.faiss",
    log:
        "logs/index_embeddings/{source}.log",
    benchmark:
        "benchmarks/index_embeddings/{source}.tsv"
    wildcard_constraints:
        source=views.sources_of_kind(CONFIG, "knn"),
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_CPUS,
        mem_mb=32000,
        runtime=240,
    params:
        settings=of(views.index_settings),
        embeddings=lambda w: names.embeddings_dir(w.source),
        seed=CONFIG.seed,
    message:
        "Index the embeddings of {wildcards.source}"
    shell:
        launched(
            "cdgmae views index"
            " --settings {params.settings:q}"
            " --seed {params.seed}"
            " --embeddings {params.embeddings:q}"
            " --output {output:q}"
            " --threads {threads}"
            " > {log} 2>&1"
        )


rule views:
    input:
        views.results(CONFIG),
