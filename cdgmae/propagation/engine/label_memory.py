"""The streaming propagation of soft labels: frame 0 and a ring of the last n frames, nothing else, is kept.

Shapes: N cells of the grid, D feature width, C label channels, F queue frames in use, Q query cells of a tile, n key cells of a
tile, S candidates per query.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cdgmae.models.onednn import products
from cdgmae.propagation.engine.context import Tile, disc_mask, first_frame_copies, query_tiles
from cdgmae.propagation.engine.top_k import largest, vote_weights
from cdgmae.settings.protocol import ClipProtocol

MAX_AFFINITIES = {"cpu": 1_000_000, "cuda": 64_000_000}
"""At most this many affinities (float32) exist at a time besides those of one tile with a single frame: 4 MB, which a CPU keeps near, and 256 MB."""

Found = tuple[Tensor, Tensor, Tensor]
"""Candidates of a tile's queries: affinities, keys (slot * N + cell) and copies, all (Q, S)."""


class LabelMemory:
    """Propagates labels from frame to frame (spec label_propagation 3.4).

    The context of frame t is frame 0, unrestricted, and the last n frames within the disc; where the literal protocol pads
    the queue with copies of frame 0, the copies are counted instead of stored. Memory: (n + 1) * N * (D + C) floats, the
    tiles' masks, and `MAX_AFFINITIES` floats of working space. Affinities are float32 (or what the features are) on every device.
    """

    def __init__(self, first_features_ND: Tensor, first_labels_NC: Tensor, grid: tuple[int, int], protocol: ClipProtocol) -> None:
        """Start a clip.

        Args:
            first_features_ND: Unit features of frame 0.
            first_labels_NC: Soft labels of frame 0, the only ones ever given.
            grid: (rows, columns), rows * columns = N.
            protocol: top_k, queue_length, radius, temperature, restrict_first_frame and restart_every are used.
        """
        self._protocol, self._frame, self._width = protocol, 0, grid[1]
        self._tiles = query_tiles(grid, protocol.radius, first_features_ND.device)
        slots = protocol.queue_length + 1
        self._features_FND = first_features_ND.new_zeros(slots, *first_features_ND.shape)
        self._labels_FNC = first_labels_NC.new_zeros(slots, *first_labels_NC.shape)
        self._features_FND[0], self._labels_FNC[0] = first_features_ND, first_labels_NC

    def propagate(self, features_ND: Tensor) -> Tensor:
        """Soft labels (N, C) of the next frame, which then joins the queue.

        Args:
            features_ND: Unit features of the next frame.
        """
        if self._frame == self._protocol.restart_every:  # the queue is forgotten; 0 never restarts, as frame 0 is not propagated
            self._frame = 0
        self._frame += 1
        labels_NC = self._labels_FNC.new_empty(self._labels_FNC.shape[1:])
        for tile in self._tiles:
            labels_NC[tile.queries_Q] = self._vote(features_ND[tile.queries_Q], tile)
        slot = 1 + (self._frame - 1) % self._protocol.queue_length
        self._features_FND[slot], self._labels_FNC[slot] = features_ND, labels_NC
        return labels_NC

    def _vote(self, queries_QD: Tensor, tile: Tile) -> Tensor:
        """Soft labels (Q, C) of one tile's queries: the best k distinct keys are enough to fill k slots."""
        top_k = self._protocol.top_k
        parts = list(self._search_disc(queries_QD, tile))
        if not self._protocol.restrict_first_frame:
            parts.insert(0, self._search_first(queries_QD, tile))
        affinity_QS, order_QS = largest(torch.cat([part[0] for part in parts], dim=1), top_k)
        keys_QS = torch.cat([part[1] for part in parts], dim=1).gather(1, order_QS)
        copies_QS = torch.cat([part[2] for part in parts], dim=1).gather(1, order_QS)
        weights_QS = vote_weights(affinity_QS, copies_QS, top_k, self._protocol.temperature)
        return (self._labels_FNC.flatten(0, 1)[keys_QS] * weights_QS[..., None]).sum(dim=1)

    def _search_first(self, queries_QD: Tensor, tile: Tile) -> Found:
        """Best candidates of the whole of frame 0: its own entry, and its copies in the queue where the disc reaches."""
        affinity_QS, keys_QS = largest(products(queries_QD, self._features_FND[0]), self._protocol.top_k)
        near_QS = disc_mask(tile.queries_Q, keys_QS, self._width, self._protocol.radius)
        return affinity_QS, keys_QS, 1 + near_QS * first_frame_copies(self._frame, self._protocol.queue_length)

    def _search_disc(self, queries_QD: Tensor, tile: Tile) -> Iterator[Found]:
        """Best candidates of each group of frames that the disc applies to: the queue, and frame 0 if it is restricted too."""
        protocol, num_cells, num_keys = self._protocol, self._features_FND.shape[1], len(tile.keys_n)
        end = min(self._frame - 1, protocol.queue_length) + 1
        group = max(1, MAX_AFFINITIES[queries_QD.device.type] // tile.inside_Qn.numel())
        for start in range(0 if protocol.restrict_first_frame else 1, end, group):
            features_FnD = self._features_FND[start : min(start + group, end)].index_select(1, tile.keys_n)
            affinity_QFn = products(queries_QD, features_FnD.flatten(0, 1)).unflatten(1, (-1, num_keys))
            affinity_QFn.masked_fill_(~tile.inside_Qn[:, None], float("-inf"))
            affinity_QS, places_QS = largest(affinity_QFn.flatten(1), protocol.top_k)
            slots_QS = places_QS // num_keys + start
            copies_QS = 1 + (slots_QS == 0) * first_frame_copies(self._frame, protocol.queue_length)
            yield affinity_QS, slots_QS * num_cells + tile.keys_n[places_QS % num_keys], copies_QS
