"""ZoomLDM's condition: a small transformer that turns embeddings on a grid and a magnification into many tokens.

Here the grid holds one embedding, that of the whole image, at its centre; the other cells hold a learned padding token, as in
the original at its finest magnification.
Shapes: B batch, D embedding width, W transformer width, C cross-attention width, S = grid^2 cells.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torchvision.models.vision_transformer import Encoder as TransformerStack

from cdgmae.generators.parts.condition_projector import normalise_embeddings


class GridProjector(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Standardise, reduce, pad to a grid, prepend the magnification's token, transform: 1 + grid^2 tokens per image.

    Submodules have the original's names, so that its weights load as they are.
    """

    has_null_condition = True

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        embedding_dim: int = 1024,
        cross_attention_dim: int = 512,
        hidden_dim: int = 512,
        num_layers: int = 12,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        grid: int = 8,
        magnification_levels: int = 8,
        magnification: int = 0,
        final_norm: bool = True,
        normalisation: str = "standardise",
    ) -> None:
        """Build the projector.

        Args:
            embedding_dim: Width of the raw embedding.
            cross_attention_dim: Width of a token.
            hidden_dim: Width of the transformer.
            num_layers: Its blocks.
            num_heads: Its attention heads.
            mlp_dim: Width of its hidden layers.
            grid: Cells per side.
            magnification_levels: Levels the model was trained with.
            magnification: The level to sample at; 0 is the finest, where one embedding stands for the whole image.
            final_norm: Whether the tokens are layer-normalised last.
            normalisation: What is done to a raw embedding first, see `normalise_embeddings`.

        Raises:
            ValueError: if the magnification is no level of the model.
        """
        super().__init__()
        if not 0 <= magnification < magnification_levels:
            raise ValueError(f"magnification = {magnification}; allowed: 0..{magnification_levels - 1}")
        self.mag_embedding = nn.Embedding(magnification_levels, hidden_dim)
        self.dim_reduce = nn.Linear(embedding_dim, hidden_dim)
        self.pad_token = nn.Parameter(torch.zeros(1, 1, hidden_dim))
        self.encoder = TransformerStack(
            grid**2 + 1, num_layers, num_heads, hidden_dim, mlp_dim, dropout=0.0, attention_dropout=0.0
        )
        self.final_proj = nn.Linear(hidden_dim, cross_attention_dim)
        self.layer_norm = nn.LayerNorm(cross_attention_dim) if final_norm else None

    def forward(self, embeddings_BD: Tensor) -> Tensor:
        """Condition tokens (B, 1 + S, C) of raw embeddings; the first one belongs to the magnification."""
        batch, cells = len(embeddings_BD), self.config["grid"] ** 2
        centre_BW = self.dim_reduce(normalise_embeddings(embeddings_BD, self.config["normalisation"]))
        cells_BSW = self.pad_token.expand(batch, cells, -1).to(centre_BW.dtype).clone()
        cells_BSW[:, cells // 2] = centre_BW
        level_B1W = self.mag_embedding.weight[self.config["magnification"]].expand(batch, 1, -1)
        tokens: Tensor = self.final_proj(self.encoder(torch.cat([level_B1W.to(centre_BW.dtype), cells_BSW], dim=1)))
        return tokens if self.layer_norm is None else self.layer_norm(tokens)

    def null_tokens(self, batch: int) -> Tensor:
        """The tokens (batch, 1 + S, C) of "no condition": zero."""
        shape = (batch, 1 + self.config["grid"] ** 2, self.config["cross_attention_dim"])
        return torch.zeros(shape, device=self.final_proj.weight.device, dtype=self.final_proj.weight.dtype)
