"""The page on pre-training: curves of all runs, what they cost, and what they reconstruct as they learn."""
