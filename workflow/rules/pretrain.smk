# Stage pretrain: one cross-view masked autoencoder per run and seed. Its checkpoints live in work/, which no failed job clears.
rule pretrain_encoder:
    input:
        images=of(pretrain.run_summary),  # of all shards; naming each of them for every run is a third of a large plan
        views=of(pretrain.run_views),
        scores=of(pretrain.run_scores),
    output:
        encoder="results/pretrain/{run}/seed{seed}/encoder.safetensors",
        model="results/pretrain/{run}/seed{seed}/model.safetensors",
        config="results/pretrain/{run}/seed{seed}/config.json",
        metrics=report(
            "results/pretrain/{run}/seed{seed}/metrics.parquet",
            caption="../report/pretrain.rst",
            category="Pre-training",
            labels={"run": "{run}", "seed": "{seed}"},
        ),
        panels=directory("results/pretrain/{run}/seed{seed}/panels"),
    log:
        "logs/pretrain_encoder/{run}/seed{seed}.log",
    benchmark:
        "benchmarks/pretrain_encoder/{run}/seed{seed}.tsv"
    conda:
        "../../envs/cdgmae.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **ON_GPUS,
        mem_mb=16000,
        runtime=1440,
    params:
        settings=of(pretrain.run_settings),
        shards=of(pretrain.run_shards_folder),
        views=of(pretrain.run_views_flag),
        scores=of(pretrain.run_scores_flag),
        seed=of(pretrain.run_seed),
        work="work/pretrain/{run}/seed{seed}",
        trackers="logs/trackers/{run}/seed{seed}",
    message:
        "Pre-train {wildcards.run}, seed {wildcards.seed}"
    shell:
        launched(
            "cdgmae pretrain run"
            " --settings {params.settings:q}"
            " --seed {params.seed}"
            " --shards {params.shards:q}"
            " {params.views}"
            " {params.scores}"
            " --output $(dirname {output.encoder:q})"
            " --work {params.work:q}"
            " --tracker-dir {params.trackers:q}"
            " --threads {threads}"
            " > {log} 2>&1"
        )


rule pretrain:
    input:
        pretrain.results(CONFIG),
        of(pretrain.all_images),
