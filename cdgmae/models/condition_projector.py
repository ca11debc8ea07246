"""From an image embedding to the one token that the denoiser attends to, and the token that stands for "no condition".

Shapes: B batch, D embedding width, C cross-attention width.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

NULL_CONDITIONS = ("zero_input", "zero_token", "learned")

WHITENING_FLOOR = 1e-6
"""Axes with less than this share of the strongest axis' variance are not raised to unit variance: they may be rounding noise."""


class ConditionProjector(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """L2-normalise, then Linear(D, C), then a token axis (spec view_generators 1.3)."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, embedding_dim: int = 384, cross_attention_dim: int = 512, null_condition: str = "zero_input") -> None:
        """Build the projector.

        Args:
            embedding_dim: Width of the raw embedding.
            cross_attention_dim: Width of the token.
            null_condition: `zero_input`: the raw embedding is replaced by the zero vector, so the token is the Linear's bias;
                `zero_token`: the token is zero; `learned`: a token of its own.

        Raises:
            ValueError: if `null_condition` is none of these.
        """
        super().__init__()
        if null_condition not in NULL_CONDITIONS:
            raise ValueError(f"null_condition = {null_condition!r}; allowed: {', '.join(NULL_CONDITIONS)}")
        self.linear = nn.Linear(embedding_dim, cross_attention_dim)
        self.null_token_C = nn.Parameter(torch.zeros(cross_attention_dim)) if null_condition == "learned" else None

    def forward(self, embeddings_BD: Tensor) -> Tensor:
        """Condition tokens (B, 1, C) of raw embeddings."""
        tokens_BC: Tensor = self.linear(F.normalize(embeddings_BD, dim=-1))
        return tokens_BC.unsqueeze(1)

    def null_tokens(self, batch: int) -> Tensor:
        """The tokens (batch, 1, C) of "no condition"."""
        kind = self.config["null_condition"]
        if kind == "zero_input":
            token_C: Tensor = self.linear.bias
        elif kind == "zero_token" or self.null_token_C is None:
            token_C = torch.zeros_like(self.linear.bias)
        else:
            token_C = self.null_token_C
        return token_C.expand(batch, 1, -1)

    @torch.no_grad()
    def whiten(self, embeddings_BD: Tensor) -> None:
        """Initialise the Linear so that the tokens of these embeddings have unit variance along their principal axes.

        Embeddings of a lightly trained encoder all point almost the same way; under a random Linear their tokens would hardly
        differ and the denoiser would need long to see the condition. The direction of the mean is projected out, so that the
        bias, which is the null token of `zero_input`, can start at zero: the centre of the tokens.
        """
        normalised_BD = F.normalize(embeddings_BD.double(), dim=-1)
        mean_D = F.normalize(normalised_BD.mean(0), dim=0)
        offsets_BD = normalised_BD - torch.outer(normalised_BD @ mean_D, mean_D)
        variances_D, vectors_DD = torch.linalg.eigh(offsets_BD.T @ offsets_BD / len(offsets_BD))
        kept = min(self.linear.out_features, self.linear.in_features - 1, len(embeddings_BD))  # the mean direction is not one
        strongest_DK = vectors_DD.flip(1)[:, :kept]
        scales_K = 1.0 / (variances_D.flip(0)[:kept].clamp(min=0) + WHITENING_FLOOR * variances_D.max() + 1e-12).sqrt()
        self.linear.weight.zero_()
        self.linear.bias.zero_()
        self.linear.weight[:kept].copy_((strongest_DK * scales_K).T)
