"""Evaluation sets: how their clips are read and checked."""
