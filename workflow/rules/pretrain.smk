# Stage pretrain: one cross-view masked autoencoder per run and seed. Its checkpoints live in work/, which no failed job clears.
rule pretrain_encoder:
    input:
        gate=lambda w: JOBS.shard_gate(JOBS.dataset_of_run(w.run)),
        images=lambda w: JOBS.run_images(w.run),
        views=lambda w: JOBS.run_views(w.run),
        scores=lambda w: JOBS.run_scores(w.run),
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
        settings=lambda w: JOBS.run_settings(w.run),
        shards=lambda w: names.shards_dir(JOBS.dataset_of_run(w.run)),
        views=lambda w: JOBS.run_views_flag(w.run),
        scores=lambda w: JOBS.run_scores_flag(w.run),
        seed=lambda w: JOBS.run_seed(w.seed),
        work="work/pretrain/{run}/seed{seed}",
        trackers="logs/trackers/{run}/seed{seed}",
        finished="work/finished/pretrain/{run}/seed{seed}",
    message:
        "Pre-train {wildcards.run}, seed {wildcards.seed}"
    shell:
        "cdgmae cluster launch {resources.launcher}"
        " --nodes {resources.nodes} --ranks-per-node {resources.tasks_per_node} --"
        " cdgmae pretrain run"
        " --settings {params.settings:q}"
        " --seed {params.seed}"
        " --shards {params.shards:q}"
        " {params.views}"
        " {params.scores}"
        " --output $(dirname {output.encoder:q})"
        " --work {params.work:q}"
        " --tracker-dir {params.trackers:q}"
        " --threads {threads}"
        " --finished {params.finished:q}"
        " > {log} 2>&1"


rule pretrain:
    input:
        JOBS.all_encoder_files(),
