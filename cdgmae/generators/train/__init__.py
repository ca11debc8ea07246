"""Training of a small latent diffusion model on the project's own shards."""
