"""Video label propagation with a frozen encoder: DAVIS-2017 objects, VIP parts, JHMDB joints (paper, Table 5; spec label_propagation 3).

Way through the package: `layouts` and `jhmdb_layout` find and check the clips (`clips`, `image_files`), `frames` decodes and embeds,
`memory` propagates soft labels, `scorers` decode and measure one clip (`masks`, `object_measures`, `part_measures`, `joints`), `run` writes
the table, `predictions`, `overlays` and `strips` what was asked for besides, `scores` turns tables into the paper's numbers, `summary` puts encoders
side by side and `display` shows them above the paper's Table 5. `prepare_davis` makes the copy of DAVIS that published numbers rest on.
"""
