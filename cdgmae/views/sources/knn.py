"""View source `knn`: the nearest neighbours of every image in an embedding space (paper, Tables 1 and 3).

Two rules come before the bags: `embed_images` embeds every shard, `index_embeddings` builds one search index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from cdgmae import names
from cdgmae.settings.base import Ratio, Settings
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.views.sources.view_source import BAD_VIEWS, CopiedSource, CopiedViews, ViewJob, ViewSettings

if TYPE_CHECKING:
    from cdgmae.config import Config


class EmbeddingSettings(Settings):
    """How images are embedded for the nearest-neighbour search."""

    image_size: int = Field(
        default=224,
        ge=8,
        description="Side in pixels to which an image is scaled for the encoder (shorter side, central square).",
    )
    batch_size: int = Field(default=64, ge=1, description="Images per encoder pass.")


class NeighbourViews(CopiedViews):
    """How nearest neighbours are searched and which of them fill a bag."""

    duplicate_similarity: float = Field(
        default=0.98,
        gt=0.0,
        le=1.0,
        description="A neighbour of a larger cosine similarity is passed over as a duplicate of the real image. Equal files are always "
        "passed over; 1 keeps all others.",
    )
    max_bad_fraction: Ratio = Field(default=0.001, description=BAD_VIEWS)

    def make(self, job: ViewJob) -> dict[str, Any]:
        """Fill each bag with the image's neighbours; the embedding tables lie beside the input `index`."""
        from cdgmae.views.gathering.neighbours import NeighbourSearch, embedding_tables, gather_neighbours

        index = job.input("index")
        tables = embedding_tables(index.parent)
        search = NeighbourSearch(self, job.all_shards, tables, index, threads=job.runtime.threads)
        return gather_neighbours(search, job.shard, job.output)


class IndexSettings(Settings):
    """How the search index is built."""

    exact_up_to: int = Field(
        default=1_000_000,
        ge=0,
        description="Data sets of up to this many images are searched exactly, larger ones through an inverted file (IVF).",
    )
    num_probes: int = Field(default=64, ge=1, description="Cells of the inverted file that a search looks into.")


class KnnSource(CopiedSource, EmbeddingSettings, NeighbourViews, IndexSettings):
    """Real image + its nearest neighbours in an embedding space (paper, Tables 1 and 3)."""

    views_class: ClassVar[type[ViewSettings] | None] = NeighbourViews

    kind: Literal["knn"] = Field(description="`knn`: the nearest neighbours of the real image in the data set.")
    encoder: EncoderSettings = Field(description="Encoder whose CLS tokens are compared by cosine similarity.")

    @property
    def embedding(self) -> EmbeddingSettings:
        """What an embedding table depends on besides the encoder."""
        return EmbeddingSettings(image_size=self.image_size, batch_size=self.batch_size)

    @property
    def index(self) -> IndexSettings:
        """What the search index depends on besides the tables."""
        return IndexSettings(exact_up_to=self.exact_up_to, num_probes=self.num_probes)

    @property
    def encoder_settings(self) -> EncoderSettings | None:
        """The embedding encoder."""
        return self.encoder

    def inputs(self, name: str, config: Config) -> dict[str, str]:
        """The search index of the data set."""
        return {"index": names.embedding_index(name)}
