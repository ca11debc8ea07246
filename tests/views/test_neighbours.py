"""Source kind knn against brute force: exact and inverted-file search, duplicates, shards, unreadable images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.image_shards import BAD, ImageRow, ImageShard, ImageShardWriter, index_path
from cdgmae.storage.media.images import NAMED_FORMATS
from cdgmae.storage.tables import table_metadata, write_table
from cdgmae.views.gathering.embedding import EmbeddingTable, embed_images
from cdgmae.views.gathering.neighbours import NeighbourSearch, build_index, embedding_tables, gather_neighbours
from cdgmae.views.sources.knn import EmbeddingSettings, IndexSettings, NeighbourViews
from tests.generators.conftest import ENCODER, image, write_shard

pytest.importorskip("faiss", reason="kind knn needs faiss: pip install 'cdgmae[knn]'")

ON_CPU = RuntimeSettings(device="cpu")
KEYS = tuple(f"k{number:03d}" for number in range(200))


def embed(tars: list[Path], folder: Path, encoder: str = ENCODER) -> list[Path]:
    tables = []
    for tar in tars:
        embed_images(
            EmbeddingSettings(image_size=16, batch_size=32),
            tar,
            parse_encoder(encoder),
            folder / f"{tar.stem}.parquet",
            runtime=ON_CPU,
        )
        tables.append(folder / f"{tar.stem}.parquet")
    return tables


@pytest.mark.slow
@pytest.mark.usefixtures("forked_commands")
def test_two_processes_write_the_table_of_one(tmp_path: Path) -> None:
    tar = write_shard(tmp_path / "00000.tar", KEYS[:30])
    settings, tables = EmbeddingSettings(image_size=16, batch_size=4), []
    for workers in (1, 2):
        runtime = RuntimeSettings(device="cpu", threads=workers, workers=workers)
        tables.append(tmp_path / f"{workers}.parquet")
        embed_images(settings, tar, parse_encoder(ENCODER), tables[-1], runtime=runtime)
    assert tables[0].read_bytes() == tables[1].read_bytes()


def gather(
    tars: list[Path], folder: Path, num_views: int = 4, exact_up_to: int = 10**6, probes: int = 64, **changes: object
) -> dict[str, list[ImageRow]]:
    """Rows of every bag, through all three jobs."""
    tables, index = embed(tars, folder), folder / "index.faiss"
    build_index(IndexSettings(exact_up_to=exact_up_to, num_probes=probes), 0, tables, index)
    settings = NeighbourViews.from_plain({"num_views": num_views, "duplicate_similarity": 1.0, **changes})
    bags: dict[str, list[ImageRow]] = {}
    search = NeighbourSearch(settings, tars, tables[::-1], index)
    for tar in tars:
        gather_neighbours(search, tar, folder / "views" / tar.name)
        for row in ImageShard(folder / "views" / tar.name).rows():
            bags.setdefault(row.key, []).append(row)
    return bags


def taken(bags: dict[str, list[ImageRow]]) -> dict[str, list[str | None]]:
    return {key: [row.source_path for row in rows] for key, rows in bags.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("whole") / "00000.tar", KEYS)


@pytest.fixture(scope="module")
def expected(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The four nearest by sorting all similarities."""
    table = EmbeddingTable(embed([whole], tmp_path_factory.mktemp("expected"))[0])
    assert np.allclose(np.linalg.norm(table.embeddings_ND, axis=1), 1, atol=1e-5)
    similarities_NN = table.embeddings_ND.astype(np.float64) @ table.embeddings_ND.T.astype(np.float64)
    np.fill_diagonal(similarities_NN, -2)
    return {key: [table.keys[place] for place in np.argsort(-similarities_NN[row])[:4]] for row, key in enumerate(table.keys)}


def test_exact_search_equals_sorting_all_similarities(whole: Path, expected: dict[str, list[str]], tmp_path: Path) -> None:
    bags = gather([whole], tmp_path)
    assert taken(bags) == expected
    digest = table_metadata(tmp_path / "00000.parquet")["inputs"]["encoder"]
    row = bags["k007"][1]
    assert (row.view_index, row.sampler, row.generator, row.class_name) == (2, "knn", digest, "animal")
    assert ImageShard(tmp_path / "views" / "00000.tar").read(row) == image(expected["k007"][1])
    assert table_metadata(index_path(tmp_path / "views" / "00000.tar"))["inputs"]["encoder"] == digest


def test_shards_make_no_difference(expected: dict[str, list[str]], tmp_path: Path) -> None:
    tars = [write_shard(tmp_path / f"0000{n}.tar", KEYS[n::3]) for n in range(3)]
    assert taken(gather(tars, tmp_path / "out")) == expected


def test_the_inverted_file_finds_most_of_them_and_all_when_it_looks_everywhere(
    whole: Path, expected: dict[str, list[str]], tmp_path: Path
) -> None:
    result = build_index(IndexSettings(exact_up_to=100, num_probes=1), 0, embed([whole], tmp_path), tmp_path / "index.faiss")
    assert result["cells"] == 3
    some = taken(gather([whole], tmp_path / "some", exact_up_to=100, probes=1))
    found = sum(len(set(some[key]) & set(expected[key])) for key in KEYS) / (4 * len(KEYS))
    assert 0.5 < found < 1
    assert all(None not in views for views in some.values())
    assert taken(gather([whole], tmp_path / "all", exact_up_to=100, probes=3)) == expected


def test_duplicates_are_passed_over(tmp_path: Path) -> None:
    tar = tmp_path / "00000.tar"
    with ImageShardWriter(tar) as writer:
        for key in ("a", "a-copy", "b", "b-copy", "c", *KEYS[:30]):
            data = image(key.removesuffix("-copy"))
            writer.add_image(ImageRow(key, 0, extension="jpg", width=32, height=24), data)
        writer.commit(settings_digest="test")
    exact = gather([tar], tmp_path / "exact", num_views=30)
    assert "a-copy" not in taken(exact)["a"]
    assert all(not {"b", "b-copy"} <= set(views) for views in taken(exact).values())
    tables = EmbeddingTable(tmp_path / "exact" / "00000.parquet")
    similarity_NN = tables.embeddings_ND @ tables.embeddings_ND.T
    limit = float(np.median(similarity_NN))
    near = gather([tar], tmp_path / "near", num_views=2, duplicate_similarity=limit, max_bad_fraction=0.99)
    place = {key: row for row, key in enumerate(tables.keys)}
    found = [(key, row.source_path) for key, rows in near.items() for row in rows if row.source_path is not None]
    assert found
    assert all(similarity_NN[place[key], place[other]] <= limit for key, other in found)


def test_unreadable_images_and_small_data_sets(tmp_path: Path) -> None:
    tar = write_shard(tmp_path / "00000.tar", KEYS[:6], corrupt=["k002"])
    with pytest.raises(ValueError, match=r"2 of 12 views are bad.*k002\.1: real image: not an image of a known format"):
        gather([tar], tmp_path / "strict", num_views=2)
    bags = gather([tar], tmp_path / "out", num_views=2, max_bad_fraction=0.5)
    assert [(row.status, row.reason) for row in bags["k002"]] == [
        (BAD, f"real image: not an image of a known format ({NAMED_FORMATS})")
    ] * 2
    assert all("k002" not in (row.source_path or "") for rows in bags.values() for row in rows)
    with pytest.raises(ValueError, match=r"num_views = 6, but the data set has only 6 image"):
        gather([tar], tmp_path / "large", num_views=6)


def test_what_does_not_belong_together_is_refused(whole: Path, tmp_path: Path) -> None:
    other = write_shard(tmp_path / "00001.tar", ["x", "y", "z"])
    tables = [*embed([whole], tmp_path / "a"), *embed([other], tmp_path / "a", encoder="pixels:8")]
    with pytest.raises(ValueError, match="embedding tables of different encoders"):
        build_index(IndexSettings(), 0, tables, tmp_path / "index.faiss")
    build_index(IndexSettings(), 0, tables[:1], tmp_path / "index.faiss")
    both = [tables[0], *embed([other], tmp_path / "b")]
    with pytest.raises(ValueError, match="made from other shards; delete it"):
        NeighbourSearch(NeighbourViews(), [whole, other], both, tmp_path / "index.faiss")
    with pytest.raises(ValueError, match=r"image_size = 20 is not a multiple of the patch size 8.*image_size = 16"):
        embed_images(EmbeddingSettings(image_size=20), whole, parse_encoder("pixels:8"), tmp_path / "e.parquet", runtime=ON_CPU)


def test_tables_that_a_larger_number_of_shards_left_behind_are_not_indexed(tmp_path: Path) -> None:
    tars = [write_shard(tmp_path / f"shards/{number:05d}.tar", [f"k{number}a", f"k{number}b"]) for number in range(2)]
    tables = embed(tars, tmp_path / "embeddings")
    assert embedding_tables(tmp_path / "embeddings") == tables
    write_table(tmp_path / "shards/summary.parquet", [{"shard": "00000"}], pa.schema([("shard", pa.string())]))
    assert embedding_tables(tmp_path / "embeddings") == tables[:1]
