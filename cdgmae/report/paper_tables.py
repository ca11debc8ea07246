"""The paper's tables and figures as printed: rows, columns and numbers, to stand beside ours.

Tables 1, 5, 8 and 9 are kept by the stages they belong to; here they get the common form. Figures 4 and 9 are plots: of their
points only those are numbers that Table 5 prints too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cdgmae.consistency.paper import COMPARED, TABLE_1, TABLE_9, PaperScores
from cdgmae.pretrain.flops import PAPER_TABLE_8
from cdgmae.propagation.paper import TABLE_5
from cdgmae.settings.tables import TABLE_ROWS

JUDGED = {"J&F": "DAVIS J&F", "mIoU": "VIP mIoU", "PCK@0.1": "JHMDB PCK@0.1"}
ALL_SCORES = {"J&F": "DAVIS J&F", "J": "DAVIS J", "F": "DAVIS F", **{name: JUDGED[name] for name in ("mIoU", "PCK@0.1")},
              "PCK@0.2": "JHMDB PCK@0.2"}  # fmt: skip
SIMILARITIES = {"gs": "Global similarity", "ls": "Local similarity", "nps": "Nearest patch similarity"}


@dataclass(frozen=True, slots=True)
class Printed:
    """A number of the paper and, where it prints one, the standard deviation over its seeds."""

    value: float
    deviation: float | None = None


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One row: its name in the configuration, what stands in the heading columns, and column -> number."""

    name: str
    labels: tuple[str, ...]
    printed: Mapping[str, Printed]


@dataclass(frozen=True, slots=True)
class PaperTable:
    """One table or figure.

    Attributes:
        name: Name of the target, e.g. `table4`.
        title: Number and subject.
        headings: Titles of the heading columns, one per label of a row.
        columns: Column of our results -> its title.
        digits: Decimals in the paper.
        rows: In the paper's order.
        note: What a reader must know about the paper's numbers.
    """

    name: str
    title: str
    headings: tuple[str, ...]
    columns: Mapping[str, str]
    digits: int
    rows: tuple[PaperRow, ...]
    note: str = ""

    @property
    def is_figure(self) -> bool:
        """Whether the paper shows it as a plot."""
        return self.name.startswith("figure")


def _numbers(columns: Mapping[str, str], values: Sequence[float]) -> dict[str, Printed]:
    return {column: Printed(value) for column, value in zip(columns, values, strict=True)}


def _similarities(name: str, title: str, scores: Sequence[PaperScores]) -> PaperTable:
    rows = (
        PaperRow(row, (paper.views,), _numbers(SIMILARITIES, [getattr(paper, metric) for metric in COMPARED]))
        for row, paper in zip(TABLE_ROWS[name], scores, strict=True)
    )
    note = "Scored with ViT-B/16 MAE at 224 pixels; scores of another encoder lie on another scale."
    return PaperTable(name, title, ("Views",), SIMILARITIES, 3, tuple(rows), note)


def _judged(name: str, title: str, heading: str, rows: Mapping[str, tuple[float, float, float]]) -> PaperTable:
    made = (
        PaperRow(row, (label,), _numbers(JUDGED, values))
        for row, (label, values) in zip(TABLE_ROWS[name], rows.items(), strict=True)
    )
    return PaperTable(name, title, (heading,), JUDGED, 1, tuple(made))


def _table_4() -> PaperTable:
    anchors = (("1", "0"), ("2", "0"), ("2", "25 %"), ("2", "50 %"), ("3", "25 %"), ("3", "50 %"))
    numbers = (
        ((61.2, 0.0), (37.6, 0.4), (46.5, 0.3)),
        ((62.0, 0.1), (37.6, 0.1), (47.1, 0.2)),
        ((62.4, 0.2), (38.0, 0.3), (47.3, 0.1)),
        ((62.1, 0.1), (38.1, 0.2), (47.8, 0.1)),
        ((62.6, 0.1), (38.1, 0.1), (47.8, 0.2)),
        ((62.0, 0.4), (37.4, 0.3), (47.5, 0.2)),
    )
    rows = (
        PaperRow(name, labels, {column: Printed(*pair) for column, pair in zip(JUDGED, values, strict=True)})
        for name, labels, values in zip(TABLE_ROWS["table4"], anchors, numbers, strict=True)
    )
    headings = ("Anchors", "Anchor masking ratio")
    note = "Means over three seeds, with their standard deviation."
    return PaperTable("table4", "Table 4: number of anchors and anchor masking", headings, JUDGED, 1, tuple(rows), note)


def _table_5() -> PaperTable:
    rows = (
        PaperRow(
            name, (paper.method, paper.architecture, paper.dataset, str(paper.epochs)),
            {column: Printed(paper.scores[column]) for column in ALL_SCORES},
        )
        for name, paper in zip(TABLE_ROWS["table5"], TABLE_5, strict=True)
    )  # fmt: skip
    headings = ("Method", "Encoder", "Pre-trained on", "Epochs")
    return PaperTable("table5", "Table 5: masked autoencoders", headings, ALL_SCORES, 1, tuple(rows))


def _table_8() -> PaperTable:
    rows = (
        PaperRow(f"a{anchors}_r{100 * ratio:.0f}", (str(anchors), f"{100 * ratio:.0f} %"), {"gflops": Printed(value)})
        for (anchors, ratio), value in PAPER_TABLE_8.items()
    )
    note = (
        "Forward pass of one sample up to the loss, ViT-S/16. Ours is counted by formula and as the paper counts: a multiply-accumulate is "
        "one operation, products inside the attention are left out (`cdgmae pretrain flops` gives both counts)."
    )
    headings = ("Anchors", "Anchor masking ratio")
    return PaperTable(
        "table8", "Table 8: cost of anchors and anchor masking", headings, {"gflops": "GFLOPs"}, 1, tuple(rows), note
    )


def _of_table_5(method: str) -> dict[str, Printed]:
    scores = next(row.scores for row in TABLE_5 if row.method == method)
    return {column: Printed(scores[column]) for column in JUDGED}


def _figure_4() -> PaperTable:
    labels = (
        ("SiamMAE", "ViT-S/16"), ("SiamMAE", "ViT-S/8"), ("CropMAE", "ViT-S/16"), ("CropMAE", "ViT-S/8"),
        ("CDG-MAE", "ViT-S/16"), ("CDG-MAE", "ViT-S/8"), ("Conditioning encoder", "size not stated"),
    )  # fmt: skip
    known = {"siammae_16": "SiamMAE", "cropmae_16": "CropMAE", "cdg_16": "CDG-MAE-a1"}
    rows = (
        PaperRow(name, label, _of_table_5(known[name]) if name in known else {})
        for name, label in zip(TABLE_ROWS["figure4"], labels, strict=True)
    )
    note = "The paper plots these scores; numbers are printed for ViT-S/16 alone (Table 5; CDG-MAE with one anchor)."
    title = "Figure 4: patch size 8, and the conditioning encoder"
    return PaperTable("figure4", title, ("Method", "Encoder"), JUDGED, 1, tuple(rows), note)


def _figure_9() -> PaperTable:
    labels = (("CropMAE", "100"), ("CropMAE", "200"), ("CropMAE", "400"), ("CDG-MAE", "100"))
    known = {"cropmae_100": "CropMAE", "cdg_100": "CDG-MAE-a1"}
    rows = (
        PaperRow(name, label, _of_table_5(known[name]) if name in known else {})
        for name, label in zip(TABLE_ROWS["figure9"], labels, strict=True)
    )
    note = "The paper plots these scores; numbers are printed for 100 epochs alone (Table 5; CDG-MAE with one anchor)."
    return PaperTable("figure9", "Figure 9: CropMAE trained for longer", ("Method", "Epochs"), JUDGED, 1, tuple(rows), note)


PAPER_TABLES: dict[str, PaperTable] = {
    table.name: table
    for table in (
        _similarities("table1", "Table 1: consistency of view pairs", TABLE_1),
        _judged(
            "table3_target", "Table 3: choice of the target view", "Target view",
            {
                "Always real": (61.3, 37.1, 46.8),
                "Always generated": (60.0, 37.1, 46.5),
                "Real or generated": (61.2, 37.6, 46.5),
                "k-nn image": (60.5, 36.0, 46.5),
            },
        ),
        _judged(
            "table3_masking", "Table 3: target masking ratio", "Masking ratio",
            {"75 %": (60.0, 34.9, 46.2), "90 %": (61.2, 37.6, 46.5), "98.5 %": (60.7, 35.5, 44.4)},
        ),
        _table_4(),
        _table_5(),
        _table_8(),
        _similarities("table9", "Table 9: choice of the diffusion model, consistency", TABLE_9),
        _judged(
            "table10", "Table 10: choice of the diffusion model, label propagation", "Views",
            {"Gen-SIS S-LDM": (61.2, 37.6, 46.5), "RCG S-LDM": (57.4, 34.8, 43.7)},
        ),
        _figure_4(),
        _figure_9(),
    )
}  # fmt: skip
"""Target -> the paper's table or figure."""
