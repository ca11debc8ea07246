"""Files and settings of stage consistency."""

from __future__ import annotations

from cdgmae import names
from cdgmae.jobs.views import ViewJobs
from cdgmae.settings.consistency import CropDrawSettings, ScoringSettings
from cdgmae.settings.crops import CropPairSettings


class ConsistencyJobs(ViewJobs):
    """Jobs that score views."""

    def scoring_settings(self, source: str) -> str:
        """What one scoring job needs of section `consistency`, as JSON; for a source without view files, how its crops are drawn."""
        section = self.config.consistency
        common = {name: getattr(section, name) for name in ScoringSettings.model_fields if hasattr(section, name)}
        crops = None if self.config.views.sources[source].has_files else self._crop_draws()
        return ScoringSettings(**common, crops=crops).canonical_json()

    def _crop_draws(self) -> CropDrawSettings:
        section = self.config.consistency
        pair = self.config.pretrain.runs[section.crop_run].crop_pair if section.crop_run is not None else CropPairSettings()
        return CropDrawSettings(**pair.model_dump(), num_pairs=section.crop_pairs, seed=self.config.seed)

    def scored_views(self, source: str, shard: str) -> list[str]:
        """The view shard that is compared with its real images, tar and index; none for a source without files."""
        folder = names.views_dir(source)
        return [f"{folder}/{shard}.tar", f"{folder}/{shard}.parquet"] if self.config.views.sources[source].has_files else []

    def scored_views_flag(self, source: str, shard: str) -> str:
        """`--views TAR` for a source with view files, else nothing."""
        return f"--views {names.views_dir(source)}/{shard}.tar" if self.config.views.sources[source].has_files else ""

    def source_kind(self, source: str) -> str:
        """The kind of a view source."""
        return self.config.views.sources[source].kind

    def consistency_tables(self) -> list[str]:
        """The pair tables of all scored sources."""
        return [table for source in self.config.consistency.sources for table in self.score_tables(source)]

    def score_tables(self, source: str) -> list[str]:
        """The pair tables of one scored source."""
        return [f"{names.consistency_dir(source)}/{shard}.parquet" for shard in self.shard_names(self.dataset_of(source))]
