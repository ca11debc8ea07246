"""Slow, literal re-statements of the specs that the fast code is held against."""
