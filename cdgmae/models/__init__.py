"""Models of the method. `from cdgmae.models import CrossViewMAE` is the Python surface; importing this package imports torch."""

from cdgmae.models.cross_view_mae import CrossViewMAE, CrossViewOutput
from cdgmae.models.encoders.by_name import Encoder, load_encoder

__all__ = ["CrossViewMAE", "CrossViewOutput", "Encoder", "load_encoder"]
