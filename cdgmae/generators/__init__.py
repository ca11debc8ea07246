"""Latent diffusion generators: the pipeline and its parts, training, and checkpoints of the original code."""
