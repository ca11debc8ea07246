"""Files and settings of stage pretrain."""

from __future__ import annotations

from cdgmae import names
from cdgmae.jobs.consistency import ConsistencyJobs

SEED_STRIDE = 1_000_003
"""Distance between the seeds of two root seeds: no run seed below it can collide with another root's."""


class PretrainJobs(ConsistencyJobs):
    """Jobs that pre-train encoders."""

    def dataset_of_run(self, run: str) -> str:
        """The data set behind a pre-training run."""
        return self.dataset_of(self.config.pretrain.runs[run].source)

    def run_settings(self, run: str) -> str:
        """Settings of a run as JSON."""
        return self.config.pretrain.runs[run].canonical_json()

    def run_views(self, run: str) -> list[str]:
        """View shards that a run trains on; a run that crops real images needs none."""
        settings = self.config.pretrain.runs[run]
        return self.view_files(settings.source) if settings.trains_on_views else []

    def run_images(self, run: str) -> list[str]:
        """Shards of the real images of a run."""
        return self.shard_files(self.dataset_of_run(run))

    def run_views_flag(self, run: str) -> str:
        """`--views FOLDER` for a run that trains on view shards, else nothing."""
        return f"--views {names.views_dir(self.config.pretrain.runs[run].source)}" if self.run_views(run) else ""

    def run_scores(self, run: str) -> list[str]:
        """Score tables by which a run chooses views; none for a run without `view_filter` and `view_weight`."""
        settings = self.config.pretrain.runs[run]
        return self.score_tables(settings.source) if settings.needs_scores else []

    def run_scores_flag(self, run: str) -> str:
        """`--consistency FOLDER` for a run that chooses views by their scores, else nothing."""
        return f"--consistency {names.consistency_dir(self.config.pretrain.runs[run].source)}" if self.run_scores(run) else ""

    def run_seed(self, seed: str) -> int:
        """The seed handed to a run: root seed and run seed combined."""
        return self.config.seed * SEED_STRIDE + int(seed)

    def all_encoder_files(self) -> list[str]:
        """The encoders of all runs and seeds."""
        section = self.config.pretrain
        return [names.encoder_file(run, seed) for run in section.runs for seed in section.seeds]
