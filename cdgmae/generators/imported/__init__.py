"""Checkpoints of the original latent diffusion code as generator folders."""
