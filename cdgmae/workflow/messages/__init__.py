"""What Snakemake says of a run: reasons in words, the end of failed logs, the report's place, states of Slurm jobs."""
