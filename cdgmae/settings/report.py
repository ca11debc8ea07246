"""Section `report`: what people see at the end, and what fills the paper's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from cdgmae.paper import PAPER_TABLES
from cdgmae.settings.base import Name, Settings
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.reading.messages import did_you_mean


class ReportSettings(Settings):
    """Section `report`."""

    title: str = Field(default="CDG-MAE", description="Heading of the report.")
    num_bags: int = Field(default=8, ge=1, le=64, description="Bags of views shown per source: evenly spaced in NPS rank.")
    thumbnail_size: int = Field(default=128, ge=16, le=512, description="Longer side of the images in the report, pixels.")
    consistency_bags: int = Field(
        default=240,
        ge=5,
        le=4000,
        description="Bags of all sources together in the consistency explorer: an equal number by each of its rules. Images are shown for "
        "the first of them, as many as fit into 8 MB.",
    )
    num_strips: int = Field(
        default=12,
        ge=1,
        le=100,
        description="Sequences of each evaluation set that the page on propagation shows as strips of painted frames: the worst of each encoder in "
        "turn, as many as fit into 2.5 MB.",
    )
    tables: dict[Name, dict[Name, Name]] = Field(
        default={},
        description="The paper's tables as targets (`snakemake table4`): table -> row -> what fills it, a source of section `views` (table1, "
        "table9) or an encoder of section `propagation` (all others). An encoder of a run is judged with all `pretrain.seeds`. Rows that "
        "are left out are shown as not configured.",
    )

    @model_validator(mode="after")
    def _tables_are_the_papers(self) -> Self:
        problems = list(table_problems(self.tables))
        if problems:
            raise ValueError("\n".join(problems))
        return self


class ReportContents(Settings):
    """What the configuration names: the report shows nothing else, whatever else lies in the results folder."""

    datasets: dict[Name, int] = Field(default={}, description="Data set -> number of its shards.")
    views: dict[Name, int] = Field(default={}, description="View source with files -> number of its shards.")
    scored: dict[Name, int] = Field(default={}, description="Scored view source -> number of its score tables.")
    generators: list[Name] = Field(default=[], description="Generators that are trained in the workflow.")
    runs: dict[Name, list[int]] = Field(default={}, description="Pre-training run -> its seeds.")
    encoders: list[Name] = Field(default=[], description="Encoders that are judged.")
    looks: dict[Name, EncoderSettings] = Field(
        default={}, description="Judged encoder -> the encoder itself, whose attention maps are drawn."
    )
    sets: dict[Name, Name] = Field(default={}, description="Evaluation set -> its kind.")


class ReportJobSettings(ReportSettings):
    """What the job needs that writes the report."""

    contents: ReportContents = Field(default=ReportContents(), description="What the configuration names.")


class TableSettings(Settings):
    """What one job needs to write one table."""

    rows: dict[Name, list[Name]] = Field(
        default={}, description="Row of the paper's table -> what fills it: one view source, or one encoder per seed."
    )
    num_shards: dict[Name, int] = Field(default={}, description="View source in `rows` -> number of its score tables.")
    sets: dict[Name, Name] = Field(
        default={}, description="Kind of evaluation set -> the set of this kind that stands for the paper's."
    )


def table_problems(tables: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One sentence per name in `tables` (table -> row -> anything) that the paper does not have."""
    for table, rows in tables.items():
        if table not in PAPER_TABLES:
            yield f"tables.{table}: no such table; allowed: {', '.join(PAPER_TABLES)}{did_you_mean(table, PAPER_TABLES)}"
            continue
        allowed = PAPER_TABLES[table].rows
        for row in rows:
            if row not in allowed:
                yield f"tables.{table}.{row}: no such row; allowed: {', '.join(allowed)}{did_you_mean(row, allowed)}"
