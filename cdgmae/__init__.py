"""CDG-MAE: dense correspondences learned from still images through diffusion-generated views.

The names of `__all__` are the Python interface (docs/python_api.md). They are imported when they are first used: `import cdgmae` alone is quick
and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdgmae.consistency.scoring.image_pairs import score_pairs
    from cdgmae.generators.generator_folder import load_generator
    from cdgmae.models.cross_view_mae import CrossViewMAE
    from cdgmae.models.encoders.by_name import load_encoder
    from cdgmae.propagation.engine.mask_propagation import propagate
    from cdgmae.shards.given_images import pack_images
    from cdgmae.storage.bags import Bags
    from cdgmae.views.sampling.image_views import sample_views

__all__ = ["Bags", "CrossViewMAE", "load_encoder", "load_generator", "pack_images", "propagate", "sample_views", "score_pairs"]
__version__ = "0.2.0"

_MODULES = {
    "Bags": "storage.bags",
    "CrossViewMAE": "models.cross_view_mae",
    "load_encoder": "models.encoders.by_name",
    "load_generator": "generators.generator_folder",
    "pack_images": "shards.given_images",
    "propagate": "propagation.engine.mask_propagation",
    "sample_views": "views.sampling.image_views",
    "score_pairs": "consistency.scoring.image_pairs",
}


if not TYPE_CHECKING:  # a checker knows the names from above

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'cdgmae' has no attribute {name!r}; it offers {', '.join(__all__)}")
        return getattr(import_module(f"cdgmae.{_MODULES[name]}"), name)

    def __dir__() -> list[str]:
        return [*__all__, "__version__"]
