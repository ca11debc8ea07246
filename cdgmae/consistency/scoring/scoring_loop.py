"""The scoring loop of one process: parts of a shard's bags, each one record of the journal.

Which bags a part holds follows from the shards and the settings alone, so that an interrupted and a straight run, by one process or
several, compute the same passes and end with the same table. Shapes: P pairs, T tokens (CLS first), D width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from cdgmae.consistency.score_tables import METRICS, SCORE_SCHEMA, check_scores
from cdgmae.consistency.scoring.bag_embedding import EmbeddedBag, Embedder, embed_bags
from cdgmae.consistency.scoring.pair_images import BagLoader, CropBags, ViewBags, bad_pair_reason
from cdgmae.consistency.scoring.similarities import pair_similarities
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.runtime.out_of_memory import explain_memory
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.storage.image_shards import BAD, OK
from cdgmae.storage.journal import Journal, NewRecord, Record
from cdgmae.storage.read_ahead import read_ahead

PASSES_PER_PART = 8
"""Encoder passes between two records: little is lost to a kill, and writing costs next to nothing."""

PASSES_AHEAD = 2
"""Encoder passes whose images are decoded in advance."""

PAIRS_AT_ONCE = 64
"""Pairs whose tokens are gathered for one call of the metrics: 80 MB per view for ViT-S/8."""


@dataclass(frozen=True, slots=True)
class ScoringTask:
    """What the processes of one job score, and with what; picklable.

    Attributes:
        settings: What is compared, at which size.
        real_tar: Shard of real images.
        view_tar: Shard of their views; None for crops.
        encoder_settings: The scoring encoder, opened once per process.
        precision: fp32, bf16 or fp16.
        source: Name of the view source, stored in every row.
        journal: Where finished parts are kept.
    """

    settings: ScoringSettings
    real_tar: Path
    view_tar: Path | None
    encoder_settings: EncoderSettings
    precision: str
    source: str
    journal: Journal

    def open_bags(self) -> BagLoader:
        """The bags of the shard."""
        settings = self.settings
        if settings.crops is None and self.view_tar is not None:
            return ViewBags(self.real_tar, self.view_tar, settings.image_size, all_pairs=settings.pairs == "all")
        if settings.crops is not None and self.view_tar is None:
            return CropBags(self.real_tar, settings.crops, settings.image_size)
        raise ValueError(
            f"both crops and the view shard {self.view_tar} were given; leave out one of settings `crops` and --views"
        )


def open_embedder(settings: ScoringSettings, encoder_settings: EncoderSettings, device: torch.device, precision: str) -> Embedder:
    """The scoring encoder on a device, giving the features that are compared."""
    encoder = load_encoder(encoder_settings, device=device)
    return Embedder(encoder, final_norm=settings.features == "final_norm", device=device, precision=precision)


def plan_parts(bags: BagLoader, batch_size: int) -> dict[str, list[str]]:
    """Name of each part -> its keys: whole bags, up to `PASSES_PER_PART` passes of images (at least one bag)."""
    parts: list[list[str]] = []
    limit, images = PASSES_PER_PART * batch_size, 0
    for key in bags.keys:
        size = len(bags.view_indices(key))
        if not parts or images + size > limit:
            parts.append([])
            images = 0
        parts[-1].append(key)
        images += size
    return {f"{number:06d}": keys for number, keys in enumerate(parts)}


def read_part(record: Record) -> pa.Table:
    """The table of a finished part."""
    return pa.ipc.open_stream(record.data()).read_all()


def score_in_pool(
    task: ScoringTask,
    parts: Sequence[str],
    slot: int,
    device: torch.device,
    numbers: Iterator[int],
    stop_reason: Callable[[], str | None],
    finished: Callable[[int, int], None],
) -> None:
    """What one of several processes does: see `cdgmae.runtime.pool.PoolWork`."""
    embed = open_embedder(task.settings, task.encoder_settings, device, task.precision)
    score_parts(task, parts, task.open_bags(), embed, slot, numbers, stop_reason, finished)


def score_parts(
    task: ScoringTask,
    parts: Sequence[str],
    bags: BagLoader,
    embed: Embedder,
    slot: int,
    numbers: Iterable[int],
    stop_reason: Callable[[], str | None],
    finished: Callable[[int, int], None],
) -> None:
    """Score parts until there are none left or a stop is asked for.

    Args:
        task: What to score.
        parts: Names of the parts that are not finished.
        bags: The shard's bags.
        embed: The encoder on this process's device.
        slot: Number of this process: names its files.
        numbers: Numbers of the parts to do, asked ahead of the work.
        stop_reason: Why to stop now, or None.
        finished: Told the number of a part and its pairs once they cannot be lost any more.
    """
    batch_size = task.settings.batch_size
    plan, taken = plan_parts(bags, batch_size), deque[int]()

    def keys() -> Iterator[str]:
        for number in numbers:
            taken.append(number)
            yield from plan[parts[number]]

    bags_ahead = PASSES_AHEAD * batch_size // len(bags.view_indices(plan[parts[0]][0]))
    with ThreadPoolExecutor(torch.get_num_threads(), "decode") as executor, task.journal.claim(f"{slot:03d}") as journal:
        loaded = read_ahead(executor, bags.load, keys(), bags_ahead)
        for first in loaded:
            number = taken.popleft()
            rows: list[dict[str, Any]] = []
            with explain_memory(embed.device, "consistency.batch_size", batch_size):
                part = chain([first], islice(loaded, len(plan[parts[number]]) - 1))
                for embedded in embed_bags(part, embed, batch_size):
                    rows.extend(_score_pairs(embedded, bags))
                    if stop_reason():
                        return
            journal.append([NewRecord(parts[number], {}, _table_bytes(rows, task.source, embed.encoder.digest), len(rows))])
            finished(number, len(rows))


def _table_bytes(rows: Sequence[dict[str, Any]], source: str, encoder: str) -> bytes:
    table = pa.Table.from_pylist([{**row, "source": source, "encoder": encoder} for row in rows], schema=SCORE_SCHEMA)
    check_scores(table)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCORE_SCHEMA) as stream:
        stream.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _score_pairs(bags: Sequence[EmbeddedBag], loader: BagLoader) -> list[dict[str, Any]]:
    """Rows of all pairs of whole bags, in order: scores, or the reason why there are none."""
    rows: list[dict[str, Any]] = []
    good: list[tuple[EmbeddedBag, dict[str, Any]]] = []
    for bag in bags:
        images = {image.view_index: image for image in bag.loaded.images}
        key, class_name = bag.loaded.key, loader.class_name(bag.loaded.key)
        for view_a, view_b in loader.pairs(key):
            reason = bad_pair_reason((images[view_a], images[view_b]))
            row = {"key": key, "view_a": view_a, "view_b": view_b, "status": BAD if reason else OK, "reason": reason}
            row["class_name"] = class_name
            rows.append(row)
            if reason is None:
                good.append((bag, row))
    for start in range(0, len(good), PAIRS_AT_ONCE):
        part = good[start : start + PAIRS_AT_ONCE]
        x_PTD, y_PTD = (torch.stack([bag.tokens_TD[row[view]] for bag, row in part]) for view in ("view_a", "view_b"))
        for (_, row), values in zip(part, pair_similarities(x_PTD, y_PTD).tolist(), strict=True):
            row.update(zip(METRICS, values, strict=True))
    return rows
