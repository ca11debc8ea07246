# Stage views: M views of every real image. One rule per kind of source writes the same files; which, is said by source_pattern.
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


for block in BLOCKS.of_sources("s_ldm", "rcg"):

    rule:
        name:
            block.rule("sample_views")
        input:
            gate=block.of(lambda source: JOBS.gate_of(source, ancient)),
            manifest=block.of(JOBS.manifest_of),
            generator=block.of(JOBS.generator_folder),
        output:
            tars=block.files(names.views_dir(block.name), ".tar"),
            indexes=block.files(names.views_dir(block.name), ".parquet"),
        log:
            f"logs/sample_views/{block}.log",
        benchmark:
            f"benchmarks/sample_views/{block}.tsv"
        wildcard_constraints:
            source=JOBS.source_pattern("s_ldm", "rcg"),
        conda:
            "../../envs/cdgmae.yaml"
        threads: CONFIG.runtime.threads
        resources:
            **ON_GPUS,
            mem_mb=8000,
            runtime=1440,
            batch_size=block.of(JOBS.sampling_batch_size),
        params:
            settings=block.of(JOBS.sampling_settings),
            packing=block.of(JOBS.packing_of),
            real=block.flags("--shard", JOBS.real_shard),
            folder=block.of(names.views_dir),
            seed=CONFIG.seed,
            work=f"work/views/sample/{block.name}",
            finished=f"work/finished/views/{block.name}",
        message:
            f"Sample views {block.words}"
        shell:
            "cdgmae cluster launch {resources.launcher}"
            " --nodes {resources.nodes} --ranks-per-node {resources.tasks_per_node} --"
            " cdgmae views sample"
            " --settings {params.settings:q}"
            " --seed {params.seed}"
            " {params.real}"
            " --generator {input.generator:q}"
            " --output {params.folder:q}"
            " --work {params.work:q}"
            " --batch-size {resources.batch_size}"
            " --threads {threads}"
            " --finished {params.finished:q}"
            " > {log} 2>&1"


for block in BLOCKS.of_sources("diffusers"):

    rule:
        name:
            block.rule("sample_pipeline")
        input:
            gate=block.of(lambda source: JOBS.gate_of(source, ancient)),
            manifest=block.of(JOBS.manifest_of),
            pipeline=block.of(JOBS.pipeline_files),
        output:
            tars=block.files(names.views_dir(block.name), ".tar"),
            indexes=block.files(names.views_dir(block.name), ".parquet"),
        log:
            f"logs/sample_pipeline/{block}.log",
        benchmark:
            f"benchmarks/sample_pipeline/{block}.tsv"
        wildcard_constraints:
            source=JOBS.source_pattern("diffusers"),
        conda:
            "../../envs/cdgmae.yaml"
        threads: CONFIG.runtime.threads
        resources:
            **ON_GPUS,
            mem_mb=16000,
            runtime=1440,
            batch_size=block.of(JOBS.sampling_batch_size),
        params:
            settings=block.of(JOBS.pipeline_settings),
            packing=block.of(JOBS.packing_of),
            real=block.flags("--shard", JOBS.real_shard),
            folder=block.of(names.views_dir),
            seed=CONFIG.seed,
            work=f"work/views/sample/{block.name}",
            finished=f"work/finished/views/{block.name}",
        message:
            f"Sample views from a pipeline for {block.words}"
        shell:
            "cdgmae cluster launch {resources.launcher}"
            " --nodes {resources.nodes} --ranks-per-node {resources.tasks_per_node} --"
            " cdgmae views sample-pipeline"
            " --settings {params.settings:q}"
            " --seed {params.seed}"
            " {params.real}"
            " --output {params.folder:q}"
            " --work {params.work:q}"
            " --batch-size {resources.batch_size}"
            " --threads {threads}"
            " --finished {params.finished:q}"
            " > {log} 2>&1"


for block in BLOCKS.of_sources("knn"):

    rule:
        name:
            block.rule("embed_images")
        input:
            gate=block.of(lambda source: JOBS.gate_of(source, ancient)),
            manifest=block.of(JOBS.manifest_of),
            encoder=block.of(
                lambda source: JOBS.encoder_files(JOBS.source_encoder(source))
            ),
        output:
            tables=block.files(names.embeddings_dir(block.name), ".parquet"),
        log:
            f"logs/embed_images/{block}.log",
        benchmark:
            f"benchmarks/embed_images/{block}.tsv"
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
            settings=block.of(lambda source: JOBS.source_settings(source, "embed")),
            packing=block.of(JOBS.packing_of),
            real=block.flags("--shard", JOBS.real_shard),
            folder=block.of(names.embeddings_dir),
            encoder=block.of(
                lambda source: JOBS.loadable_encoder(
                    JOBS.source_encoder(source)
                ).canonical_json()
            ),
            finished=f"work/finished/embeddings/{block.name}",
        message:
            f"Embed images for {block.words}"
        shell:
            "cdgmae cluster launch {resources.launcher}"
            " --nodes {resources.nodes} --ranks-per-node {resources.tasks_per_node} --"
            " cdgmae views embed"
            " --settings {params.settings:q}"
            " {params.real}"
            " --encoder {params.encoder:q}"
            " --output {params.folder:q}"
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


for block in BLOCKS.of_sources("knn"):

    rule:
        name:
            block.rule("gather_neighbours")
        input:
            gate=block.of(lambda source: JOBS.gate_of(source, ancient)),
            manifest=block.of(JOBS.manifest_of),
            index=f"{names.embeddings_dir(block.name)}/index.faiss",
        output:
            tars=block.files(names.views_dir(block.name), ".tar"),
            indexes=block.files(names.views_dir(block.name), ".parquet"),
        log:
            f"logs/gather_neighbours/{block}.log",
        benchmark:
            f"benchmarks/gather_neighbours/{block}.tsv"
        wildcard_constraints:
            source=JOBS.source_pattern("knn"),
        conda:
            "../../envs/cdgmae.yaml"
        threads: CONFIG.runtime.threads
        resources:
            mem_mb=16000,
            runtime=240,
        params:
            settings=block.of(lambda source: JOBS.source_settings(source, "neighbours")),
            packing=block.of(JOBS.packing_of),
            real=block.flags("--shard", JOBS.real_shard),
            folder=block.of(names.views_dir),
            shards=block.of(lambda source: names.shards_dir(JOBS.dataset_of(source))),
            embeddings=block.of(names.embeddings_dir),
            finished=f"work/finished/views/{block.name}",
        message:
            f"Gather neighbours {block.words}"
        shell:
            "cdgmae views neighbours"
            " --settings {params.settings:q}"
            " {params.real}"
            " --shards {params.shards:q}"
            " --embeddings {params.embeddings:q}"
            " --index {input.index:q}"
            " --output {params.folder:q}"
            " --threads {threads}"
            " --finished {params.finished:q}"
            " > {log} 2>&1"


for block in BLOCKS.of_sources("random"):

    rule:
        name:
            block.rule("gather_random")
        input:
            gate=block.of(lambda source: JOBS.gate_of(source, ancient)),
            manifest=block.of(JOBS.manifest_of),
        output:
            tars=block.files(names.views_dir(block.name), ".tar"),
            indexes=block.files(names.views_dir(block.name), ".parquet"),
        log:
            f"logs/gather_random/{block}.log",
        benchmark:
            f"benchmarks/gather_random/{block}.tsv"
        wildcard_constraints:
            source=JOBS.source_pattern("random"),
        conda:
            "../../envs/cdgmae.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=60,
        params:
            settings=block.of(lambda source: JOBS.source_settings(source, "random")),
            packing=block.of(JOBS.packing_of),
            real=block.flags("--shard", JOBS.real_shard),
            folder=block.of(names.views_dir),
            shards=block.of(lambda source: names.shards_dir(JOBS.dataset_of(source))),
            seed=CONFIG.seed,
            finished=f"work/finished/views/{block.name}",
        message:
            f"Gather random images {block.words}"
        shell:
            "cdgmae views random"
            " --settings {params.settings:q}"
            " --seed {params.seed}"
            " {params.real}"
            " --shards {params.shards:q}"
            " --output {params.folder:q}"
            " --finished {params.finished:q}"
            " > {log} 2>&1"


for block in BLOCKS.of_sources("video"):

    rule:
        name:
            block.rule("read_clips")
        input:
            gate=block.of(lambda source: JOBS.gate_of(source, ancient)),
            manifest=block.of(JOBS.manifest_of),
        output:
            tars=block.files(names.views_dir(block.name), ".tar"),
            indexes=block.files(names.views_dir(block.name), ".parquet"),
        log:
            f"logs/read_clips/{block}.log",
        benchmark:
            f"benchmarks/read_clips/{block}.tsv"
        wildcard_constraints:
            source=JOBS.source_pattern("video"),
        conda:
            "../../envs/cdgmae.yaml"
        threads: CONFIG.runtime.threads
        resources:
            mem_mb=8000,
            runtime=240,
        params:
            settings=block.of(JOBS.clip_settings),
            packing=block.of(JOBS.packing_of),
            real=block.flags("--shard", JOBS.real_shard),
            folder=block.of(names.views_dir),
            seed=CONFIG.seed,
            finished=f"work/finished/views/{block.name}",
        message:
            f"Read clips {block.words}"
        shell:
            "cdgmae views video"
            " --settings {params.settings:q}"
            " --seed {params.seed}"
            " {params.real}"
            " --output {params.folder:q}"
            " --threads {threads}"
            " --finished {params.finished:q}"
            " > {log} 2>&1"


rule views:
    input:
        JOBS.all_view_files(),
