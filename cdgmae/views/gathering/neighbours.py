"""View source `knn`: the nearest neighbours of every image in an embedding space (paper, Tables 1 and 3), through faiss.

Three jobs: every shard is embedded (`cdgmae.views.gathering.embedding`), one index is built from all embeddings, and the bags of every shard
are filled from it. Vectors have length 1, so inner products are cosine similarities.
Shapes: N vectors of the data set, Q queries, K candidates per query, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdgmae.names import how_to_make, how_to_remake, shard_names
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.runtime.seeds import integer_seed, numpy_generator
from cdgmae.storage.files.atomic import atomic_file
from cdgmae.storage.files.records import refuse_changed
from cdgmae.storage.image_shards import find_shards, index_path
from cdgmae.storage.tables import file_sha256, table_metadata
from cdgmae.views.gathering.copying import DataSetImages, GatheredView, write_gathered
from cdgmae.views.gathering.embedding import EmbeddingTable
from cdgmae.views.sources.knn import IndexSettings, NeighbourViews

POINTS_PER_CELL = 64
"""Training vectors per cell of the inverted file; faiss asks for at least 39."""

QUERIES_AT_ONCE = 1024
SPARE_CANDIDATES = 16
"""Candidates beyond M that a first search asks for, to make up for the image itself and its duplicates."""


def build_index(
    settings: IndexSettings, seed: int, embedding_tables: Sequence[Path], output: Path, *, threads: int = 1
) -> dict[str, Any]:
    """Build the search index of a data set; its positions follow the tables in the order of their names.

    Up to `exact_up_to` vectors are compared one by one. Beyond, they lie in about 4 sqrt(N) cells (k-means of a seeded sample), of
    which a search visits `num_probes`.

    Args:
        settings: Exact or not, and how thorough.
        seed: Root seed of the sample and of k-means.
        embedding_tables: Tables of all shards.
        output: The faiss index to write.
        threads: CPU threads.

    Returns:
        The job's result: output, vectors, width, cells (0 if exact).

    Raises:
        ValueError: if faiss is missing, the tables come from different encoders, or hold no embedding.
    """
    faiss = load_faiss(threads)
    encoder_of(embedding_tables)
    vectors_ND = np.concatenate([EmbeddingTable(path).embeddings_ND for path in _in_order(embedding_tables)])
    count, width = vectors_ND.shape
    if count == 0:
        raise ValueError("no image of the data set could be embedded; see `reason` in the embedding tables")
    cells = 0
    if count <= settings.exact_up_to:
        index = faiss.IndexFlatIP(width)
    else:
        cells = max(1, min(round(4 * math.sqrt(count)), count // POINTS_PER_CELL))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = integer_seed(seed, "views/knn/cells", 0) % 2**31
        index.cp.spherical = True
        index.nprobe = min(settings.num_probes, cells)
        sample = numpy_generator(seed, "views/knn/sample", 0).permutation(count)[: POINTS_PER_CELL * cells]
        index.train(vectors_ND[np.sort(sample)])
    index.add(vectors_ND)
    with atomic_file(output) as temporary:
        faiss.write_index(index, str(temporary))
    return {"output": str(output), "vectors": count, "width": width, "cells": cells}


class NeighbourSearch:
    """Finds neighbours as positions in the data set; opened once for all shards of a job.

    Attributes:
        settings: Number of views and what counts as a duplicate.
        images: All images of the data set.
        encoder: Digest of the encoder that made the embeddings.
        index_digest: SHA-256 of the index file.
    """

    def __init__(
        self, settings: NeighbourViews, all_tars: Sequence[Path], embedding_tables: Sequence[Path], index_file: Path,
        *, threads: int = 1,
    ) -> None:  # fmt: skip
        """Read the index, the embedding tables and the shards' indices.

        Args:
            settings: Number of views and what counts as a duplicate.
            all_tars: All image shards of the data set.
            embedding_tables: Their embedding tables, one for each shard, of its name.
            index_file: The data set's index.
            threads: CPU threads.

        Raises:
            ValueError: if the index does not fit the tables, or the data set is too small.
        """
        faiss = load_faiss(threads)
        self.settings, self.encoder, self.images = settings, encoder_of(embedding_tables), DataSetImages(all_tars)
        if settings.num_views >= len(self.images):
            raise ValueError(
                f"num_views = {settings.num_views}, but the data set has only {len(self.images)} image(s), the real image included; "
                "lower views.sources.NAME.num_views or add images"
            )
        refuse_changed(index_file)
        try:
            self.index, self.index_digest = faiss.read_index(str(index_file)), file_sha256(index_file)
        except RuntimeError as error:
            raise ValueError(f"{index_file} is no search index ({error}); {how_to_remake(index_file)}") from None
        self._tables = {path.stem: path for path in _in_order(embedding_tables)}
        self._place = {key: position for position, key in enumerate(self.images.keys)}
        keys = [table.keys[row] for table in map(EmbeddingTable, self._tables.values()) for row in table.embedded]
        if self.index.ntotal != len(keys) or any(key not in self._place for key in keys):
            raise ValueError(
                f"the index holds {self.index.ntotal} vectors, the embedding tables {len(keys)} of {len(self._place)} images in the "
                f"shards: they were made from other shards; {how_to_remake(index_file)}"
            )
        self.places_N = np.array([self._place[key] for key in keys], dtype=np.int64)

    def table_of(self, shard_tar: Path) -> EmbeddingTable:
        """The embedding table of a shard.

        Raises:
            ValueError: if there is none of its name.
        """
        if shard_tar.stem not in self._tables:
            table = next(iter(self._tables.values())).with_name(f"{shard_tar.stem}.parquet")
            raise ValueError(f"{shard_tar} has no embedding table; {how_to_make(table)}")
        return EmbeddingTable(self._tables[shard_tar.stem])

    def views(self, table: EmbeddingTable) -> Iterator[GatheredView]:
        """The views of all bags of one embedding table, in order."""
        chosen: dict[int, list[int]] = {}
        with ProgressMeter("neighbours", len(table.embedded), unit="images") as meter:
            for start in range(0, len(table.embedded), QUERIES_AT_ONCE):
                rows = table.embedded[start : start + QUERIES_AT_ONCE]
                queries_QD = table.embeddings_ND[start : start + QUERIES_AT_ONCE]
                places = [self._place[table.keys[row]] for row in rows]
                chosen.update(zip(rows.tolist(), self._neighbours(queries_QD, places), strict=True))
                meter.advance(len(rows))
        for row, key in enumerate(table.keys):
            positions, reason = chosen.get(row, []), table.reasons[row]
            lacking = f"real image: {reason}" if reason else f"only {len(positions)} neighbour(s) are no duplicates"
            for index in range(self.settings.num_views):
                taken = positions[index] if index < len(positions) else None
                yield GatheredView(key, index + 1, taken, reason=None if taken is not None else lacking)

    def _neighbours(self, queries_QD: NDArray[np.float32], places: Sequence[int]) -> list[list[int]]:
        """Positions of the neighbours of each query: M, or as many as the whole data set has."""
        wanted = min(self.settings.num_views + SPARE_CANDIDATES, self.index.ntotal)
        similarities_QK, positions_QK = self.index.search(queries_QD, wanted)
        neighbours = [self._choose(*candidates) for candidates in zip(places, positions_QK, similarities_QK, strict=True)]
        for row, chosen in enumerate(neighbours):
            if len(chosen) < self.settings.num_views:
                neighbours[row] = self._search_everywhere(queries_QD[row : row + 1], places[row], wanted)
        return neighbours

    def _search_everywhere(self, query_1D: NDArray[np.float32], place: int, wanted: int) -> list[int]:
        """Neighbours of one image with many duplicates: ever more candidates, from all cells."""
        has_cells = hasattr(self.index, "nlist")
        if has_cells:
            probes, self.index.nprobe = self.index.nprobe, self.index.nlist
        while True:
            wanted = min(8 * wanted, self.index.ntotal)
            similarities_1K, positions_1K = self.index.search(query_1D, wanted)
            chosen = self._choose(place, positions_1K[0], similarities_1K[0])
            if len(chosen) == self.settings.num_views or wanted == self.index.ntotal:
                break
        if has_cells:
            self.index.nprobe = probes
        return chosen

    def _choose(self, place: int, positions_K: NDArray[np.int64], similarities_K: NDArray[np.float32]) -> list[int]:
        """The first M candidates that are neither duplicates of the image nor of each other."""
        limit, in_bag = self.settings.duplicate_similarity, {self.images.sha256[place]}
        chosen: list[int] = []
        for position, similarity in zip(positions_K.tolist(), similarities_K.tolist(), strict=True):
            if position < 0 or len(chosen) == self.settings.num_views:  # -1: the visited cells hold no more
                break
            candidate = int(self.places_N[position])
            if self.images.sha256[candidate] in in_bag or candidate == place or (similarity > limit and limit < 1):
                continue
            in_bag.add(self.images.sha256[candidate])
            chosen.append(candidate)
        return chosen


def gather_neighbours(search: NeighbourSearch, shard_tar: Path, output_tar: Path) -> dict[str, Any]:
    """Fill the bags of one shard with the M nearest neighbours of each image, most similar first.

    Passed over: the image itself, equal files, and neighbours above `duplicate_similarity`; no file appears twice in a bag.

    Args:
        search: The opened data set and its index.
        shard_tar: Image shard with the real images.
        output_tar: View shard to write; its index goes beside it.

    Returns:
        The job's result: output, images, views, bad.

    Raises:
        ValueError: if the shard was not embedded, or more than `max_bad_fraction` of the views are bad.
    """
    own, settings = search.table_of(shard_tar), search.settings
    inputs = {
        str(index_path(shard_tar)): file_sha256(index_path(shard_tar)),
        "index": search.index_digest,
        "encoder": search.encoder,
    }
    views, bad = write_gathered(
        output_tar, search.views(own), search.images, sampler="knn", generator=search.encoder,
        max_bad_fraction=settings.max_bad_fraction, settings_digest=settings.digest(), inputs=inputs,
    )  # fmt: skip
    return {"output": str(output_tar), "images": len(own.keys), "views": views, "bad": bad}


def encoder_of(embedding_tables: Sequence[Path]) -> str:
    """Digest of the encoder that made all tables.

    Raises:
        ValueError: if they were made by different encoders.
    """
    digests = {str(table_metadata(path).get("inputs", {}).get("encoder")) for path in embedding_tables}
    if len(digests) != 1:
        raise ValueError(
            f"embedding tables of different encoders ({', '.join(sorted(digests))}); {how_to_remake(embedding_tables[0])} (so for "
            "each of them)"
        )
    return digests.pop()


def embedding_tables(folder: Path) -> list[Path]:
    """The embedding tables of a folder, but for those of shards that a larger number of them left behind.

    Raises:
        ValueError: if there are none.
    """
    tables = sorted(folder.glob("*.parquet"))
    if not tables:
        raise ValueError(f"{folder} holds no embedding tables; {how_to_make(folder / f'{shard_names(1)[0]}.parquet')}")
    embedded = [Path(name) for name in table_metadata(tables[0]).get("inputs", {}) if name.endswith(".parquet")]
    if not embedded or not index_path(embedded[0].with_suffix(".tar")).is_file():
        return tables  # the shards lie elsewhere now
    shards = {tar.stem for tar in find_shards(embedded[0].parent)}
    return [table for table in tables if table.stem in shards]


def load_faiss(threads: int) -> Any:
    """The faiss module, set to this many threads.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise ValueError("source kind knn needs faiss, which is not installed: pip install 'cdgmae[knn]'") from None
    faiss.omp_set_num_threads(threads)
    return faiss


def _in_order(tables: Sequence[Path]) -> list[Path]:
    """Embedding tables by the name of their shard: the order of the index, whoever lists them."""
    return sorted(tables, key=lambda path: path.stem)
