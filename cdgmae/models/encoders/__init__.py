"""Frozen encoders by name, and the checkpoint layouts that they are read from."""
