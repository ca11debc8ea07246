"""Video label propagation with a frozen encoder: DAVIS-2017 objects, VIP parts, JHMDB joints (paper, Table 5; spec label_propagation 3).

Way through the package: `layouts` finds and checks the clips, `frames` decodes and embeds, `memory` propagates soft labels,
`scorers` decode and measure one clip (`masks`, `object_measures`, `part_measures`, `joints`), `run` writes the table,
`scores` turns tables into the paper's numbers and `summary` puts encoders side by side.
"""
