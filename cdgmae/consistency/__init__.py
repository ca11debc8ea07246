"""Consistency of view pairs: GS, LS and NPS (paper, section 3.2), their tables and their summary."""
