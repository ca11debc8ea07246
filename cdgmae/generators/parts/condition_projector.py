"""From an image embedding to the one token that the denoiser attends to, and the token that stands for "no condition".

Shapes: B batch, D embedding width, C cross-attention width.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

NULL_CONDITIONS = ("zero_input", "zero_token", "learned", "none")
NORMALISATIONS = ("l2", "standardise", "none")
PROJECTIONS = ("linear", "identity")

WHITENING_FLOOR = 1e-6
"""Axes with less than this share of the strongest axis' variance are not raised to unit variance: they may be rounding noise."""


def normalise_embeddings(embeddings_BD: Tensor, normalisation: str) -> Tensor:
    """Raw embeddings brought to one scale.

    Args:
        embeddings_BD: Raw embeddings.
        normalisation: `l2`: unit length. `standardise`: each embedding less its own mean, over its own unbiased standard
            deviation (RCG, ZoomLDM). `none`: as they are.
    """
    if normalisation == "l2":
        return F.normalize(embeddings_BD, dim=-1)
    if normalisation == "standardise":
        mean_B1, std_B1 = embeddings_BD.mean(-1, keepdim=True), embeddings_BD.std(-1, keepdim=True)
        return (embeddings_BD - mean_B1) / (std_B1 + 1e-8)
    return embeddings_BD


class ConditionProjector(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Normalise, project, add a token axis: one token per image.

    By default L2-normalise and Linear(D, C) (spec view_generators 1.3); RCG's condition is the standardised embedding itself
    (section 4).
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        embedding_dim: int = 384,
        cross_attention_dim: int = 512,
        null_condition: str = "zero_input",
        normalisation: str = "l2",
        projection: str = "linear",
    ) -> None:
        """Build the projector.

        Args:
            embedding_dim: Width of the raw embedding.
            cross_attention_dim: Width of the token.
            null_condition: `zero_input`: the raw embedding is replaced by the zero vector, so the token is the Linear's bias;
                `zero_token`: the token is zero; `learned`: a token of its own; `none`: there is no null condition, the
                denoiser was never trained without its condition.
            normalisation: `l2`, `standardise` or `none`, see `normalise_embeddings`.
            projection: `linear`, or `identity` for a token that is the normalised embedding itself.

        Raises:
            ValueError: if an option is unknown, or an identity is asked to change the width.
        """
        super().__init__()
        for option, value, allowed in (
            ("null_condition", null_condition, NULL_CONDITIONS),
            ("normalisation", normalisation, NORMALISATIONS),
            ("projection", projection, PROJECTIONS),
        ):
            if value not in allowed:
                raise ValueError(f"{option} = {value!r}; allowed: {', '.join(allowed)}")
        if projection == "identity" and embedding_dim != cross_attention_dim:
            raise ValueError(
                f"projection = 'identity': the embedding is {embedding_dim} wide, the token {cross_attention_dim}; use 'linear'"
            )
        self.linear = nn.Linear(embedding_dim, cross_attention_dim) if projection == "linear" else None
        # without a Linear the null token is a constant; being a tensor of the module, it is moved and saved like a weight
        learned, constant = null_condition == "learned", projection == "identity"
        token = nn.Parameter(torch.zeros(cross_attention_dim), requires_grad=learned)
        self.null_token_C = token if learned or constant else None

    @property
    def has_null_condition(self) -> bool:
        """Whether guidance is possible."""
        return bool(self.config["null_condition"] != "none")

    def forward(self, embeddings_BD: Tensor) -> Tensor:
        """Condition tokens (B, 1, C) of raw embeddings."""
        tokens_BC = normalise_embeddings(embeddings_BD, self.config["normalisation"])
        return (tokens_BC if self.linear is None else self.linear(tokens_BC)).unsqueeze(1)

    def null_tokens(self, batch: int) -> Tensor:
        """The tokens (batch, 1, C) of "no condition".

        Raises:
            ValueError: if there is no null condition.
        """
        if not self.has_null_condition:
            raise ValueError(
                "this generator was trained with its condition always present and has no null condition; use guidance_scale 1"
            )
        if self.linear is None or self.config["null_condition"] == "learned":
            token_C: Any = self.null_token_C
        else:
            bias_C = self.linear.bias
            token_C = bias_C if self.config["null_condition"] == "zero_input" else torch.zeros_like(bias_C)
        tokens_B1C: Tensor = token_C.expand(batch, 1, -1)
        return tokens_B1C

    @torch.no_grad()
    def whiten(self, embeddings_BD: Tensor) -> None:
        """Initialise the Linear so that the tokens of these embeddings have unit variance along their principal axes.

        Embeddings of a lightly trained encoder all point almost the same way; under a random Linear their tokens would hardly
        differ and the denoiser would need long to see the condition. The direction of the mean is projected out, so that the
        bias, which is the null token of `zero_input`, can start at zero: the centre of the tokens.

        Raises:
            ValueError: if there is no Linear to initialise.
        """
        if self.linear is None:
            raise ValueError("a projector with projection = 'identity' has no weights to whiten with; use 'linear'")
        normalised_BD = normalise_embeddings(embeddings_BD.double(), self.config["normalisation"])
        mean_D = F.normalize(normalised_BD.mean(0), dim=0)
        offsets_BD = normalised_BD - torch.outer(normalised_BD @ mean_D, mean_D)
        variances_D, vectors_DD = torch.linalg.eigh(offsets_BD.T @ offsets_BD / len(offsets_BD))
        rank = min(self.linear.out_features, self.linear.in_features - 1, len(embeddings_BD))  # the mean direction is not one
        strongest_DK = vectors_DD.flip(1)[:, :rank]
        scales_K = 1.0 / (variances_D.flip(0)[:rank].clamp(min=0) + WHITENING_FLOOR * variances_D.max() + 1e-12).sqrt()
        self.linear.weight.zero_()
        self.linear.bias.zero_()
        self.linear.weight[:rank].copy_((strongest_DK * scales_K).T)
