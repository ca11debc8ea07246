"""Models of the method. `from cdgmae.models import CrossViewMAE` is the Python surface; importing this package imports torch."""

from typing import TYPE_CHECKING, Any

from cdgmae.models.cross_view_mae import CrossViewMAE, CrossViewOutput
from cdgmae.models.encoders import Encoder, load_encoder

if TYPE_CHECKING:
    from cdgmae.models.latent_diffusion import LatentDiffusionPipeline

__all__ = ["CrossViewMAE", "CrossViewOutput", "Encoder", "LatentDiffusionPipeline", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Import the generator on first use: diffusers takes seconds that no other model needs."""
    if name == "LatentDiffusionPipeline":
        from cdgmae.models.latent_diffusion import LatentDiffusionPipeline

        return LatentDiffusionPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
