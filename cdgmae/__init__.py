"""CDG-MAE: dense correspondences learned from still images through diffusion-generated views."""

__version__ = "0.1.0"
