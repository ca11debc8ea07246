"""Stage `views`: training a small latent diffusion model, and sampling bags of views from it."""
