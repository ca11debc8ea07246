"""Figures of encoders and models on any images: attention maps, features as colours, reconstructions, strips of several encoders."""
