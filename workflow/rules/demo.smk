# The embedded demo data: tiles and labelled clips from photographs inside installed packages.
if CONFIG.demo is not None:

    rule draw_demo_data:
        output:
            names.demo_marker(CONFIG.demo.directory),
        log:
            "logs/draw_demo_data/demo.log",
        benchmark:
            "benchmarks/draw_demo_data/demo.tsv"
        conda:
            "../../envs/cdgmae.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=10,
        params:
            settings=CONFIG.demo.canonical_json(),
            seed=CONFIG.seed,
        message:
            "Draw the demo data"
        shell:
            "cdgmae demo draw"
            " --settings {params.settings:q}"
            " --seed {params.seed}"
            " > {log} 2>&1"
