"""The one resumable training loop, shared by pre-training and generator training."""
