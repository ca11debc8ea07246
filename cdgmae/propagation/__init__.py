"""Frozen encoders on evaluation sets, training-free: video label propagation and its like (paper, Table 5; spec label_propagation 3).

Way through the package: `benchmarks` holds one object per kind of set, which reads it (`layouts`), computes a sequence of it (`engine`: frames
to features, memory, top-k) and measures what came out (`measures`). `evaluation` runs one encoder on one set and writes the table; `output`
writes what was asked for besides; `measures.encoder_summary` puts encoders side by side.
"""
