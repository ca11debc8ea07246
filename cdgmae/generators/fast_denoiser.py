"""The U-Net's forward pass, without the work that gives the same numbers again and again.

Three identities, all exact (spec view_generators section 2):

* With a condition of one token the softmax of a cross-attention is 1, so attn2(h, c) = W_o W_v c + b_o at every position and every step: one
  vector per layer and image. (Conditions of more tokens are attended to as usual.)
* Up to its first cross-attention the U-Net does not see the condition, so the conditional and the unconditional row of a guided
  step share that prefix. (A U-Net whose time embedding carries the condition shares only the first convolution.)
* The time embedding depends on the step alone: one row for the whole batch.

And one approximation: `shallow` recomputes the outermost layers at full resolution only and takes the rest from an earlier step
(the idea of DeepCache, arXiv 2312.00858).

Shapes: B latents, R rows of the U-Net (B, or 2B for unconditional + conditional), S steps, C channels, h w, E time embedding width,
T tokens of width D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

BLOCKS = {"DownBlock2D", "CrossAttnDownBlock2D", "UNetMidBlock2DCrossAttn", "UpBlock2D", "CrossAttnUpBlock2D"}
PLAIN_CONFIG = {
    "center_input_sample": False, "class_embeddings_concat": False, "addition_embed_type": None, "encoder_hid_dim": None,
    "time_embedding_act_fn": None, "time_cond_proj_dim": None, "dual_cross_attention": False, "only_cross_attention": False,
    "double_self_attention": False, "resnet_skip_time_act": False, "cross_attention_norm": None,
}  # fmt: skip
"""U-Net options that this forward pass knows only in their ordinary setting."""


class Conditions(NamedTuple):
    """What of a batch's conditions and steps is computed once.

    Attributes:
        vectors_RC: Output of each cross-attention layer in the order in which the U-Net runs them; empty if T > 1.
        tokens_RTD: The condition, for T > 1.
        embeddings_SRE: Time embedding of each step; R is 1 unless the condition enters it.
    """

    vectors_RC: list[Tensor]
    tokens_RTD: Tensor
    embeddings_SRE: Tensor

    def rows(self, first: int) -> Conditions:
        """Rows from `first` on: the conditional ones of a guided batch."""
        embeddings = self.embeddings_SRE if self.embeddings_SRE.shape[1] == 1 else self.embeddings_SRE[:, first:]
        return Conditions([vector[first:] for vector in self.vectors_RC], self.tokens_RTD[first:], embeddings)


_Seen: TypeAlias = tuple[list[Tensor], Tensor]
"""What the transformers see of the condition: `vectors_RC` and `tokens_RTD` of `Conditions`."""


class _Layer(NamedTuple):
    """One residual layer and the transformer behind it; `vector` is the place of its first cross-attention."""

    resnet: nn.Module
    transformer: nn.Module | None
    vector: int


def why_unsupported(unet: UNet2DConditionModel) -> str | None:
    """Why this U-Net needs its own forward pass, or None if `FastDenoiser` gives the same."""
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    odd = sorted({type(block).__name__ for block in blocks} - BLOCKS)
    if odd:
        return f"it has block(s) {', '.join(odd)}"
    odd = sorted(name for name, usual in PLAIN_CONFIG.items() if unet.config.get(name, usual) != usual)
    if odd:
        return f"it sets {', '.join(odd)}"
    for block in _transformer_blocks(unet):
        if block.norm_type != "layer_norm" or block.attn2 is None:
            return f"its transformers use {block.norm_type} or lack cross-attention"
    return None


def _transformer_blocks(unet: UNet2DConditionModel) -> list[Any]:
    transformers = [t for block in [*unet.down_blocks, unet.mid_block, *unet.up_blocks] for t in getattr(block, "attentions", [])]
    return [block for transformer in transformers for block in transformer.transformer_blocks]


class FastDenoiser:
    """Runs a U-Net's own layers; the U-Net itself is not changed."""

    def __init__(self, unet: UNet2DConditionModel, *, compiled: bool = False) -> None:
        """Look up the layers.

        Args:
            unet: The denoiser, on its device, in its dtype and memory format.
            compiled: Compile both passes with torch.compile for one static shape per number of rows.

        Raises:
            ValueError: if `why_unsupported` has an answer.
        """
        reason = why_unsupported(unet)
        if reason:
            raise ValueError(f"this denoiser cannot be accelerated: {reason}")
        self.unet = unet
        self._attention = [block.attn2 for block in _transformer_blocks(unet)]
        self._vectors = 0
        self._down = [self._layers(block) for block in unet.down_blocks]
        self._mid = self._mid_layers(unet.mid_block)
        self._up = [self._layers(block) for block in unet.up_blocks]
        self._full, self._shallow = self._full_pass, self._shallow_pass
        if compiled:
            self._full = torch.compile(self._full_pass, fullgraph=True, dynamic=False)
            self._shallow = torch.compile(self._shallow_pass, fullgraph=True, dynamic=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that latents are cast to."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    def conditions(self, tokens_RTD: Tensor, timesteps_S: Tensor) -> Conditions:
        """Everything that is the same for all steps or for all rows."""
        tokens_RTD = tokens_RTD.to(self.dtype)
        tokens_RD, one = tokens_RTD[:, 0], tokens_RTD.shape[1] == 1
        vectors = [attention.to_out[0](attention.to_v(tokens_RD)) for attention in self._attention] if one else []
        timesteps_S = timesteps_S.to(tokens_RD.device)
        embeddings_SRE = self.unet.time_embedding(self.unet.time_proj(timesteps_S).to(self.dtype))[:, None]
        if self.unet.config["class_embed_type"] is not None:
            embeddings_SRE = embeddings_SRE + self.unet.class_embedding(tokens_RD)[None]
        return Conditions(vectors, tokens_RTD, embeddings_SRE)

    def full(self, latents_BChw: Tensor, conditions: Conditions, step: int) -> tuple[Tensor, Tensor]:
        """The prediction (R, C, h, w), and the deep features (R, C', h, w) that `shallow` may use again."""
        output: tuple[Tensor, Tensor] = self._full(
            latents_BChw.to(self.dtype), conditions.embeddings_SRE[step], (conditions.vectors_RC, conditions.tokens_RTD)
        )
        return output

    def shallow(self, latents_BChw: Tensor, conditions: Conditions, step: int, deep_RChw: Tensor) -> Tensor:
        """An approximate prediction (R, C, h, w) with the deep features of an earlier step of the same rows."""
        output: Tensor = self._shallow(
            latents_BChw.to(self.dtype),
            conditions.embeddings_SRE[step],
            (conditions.vectors_RC, conditions.tokens_RTD),
            deep_RChw,
        )
        return output

    def _layers(self, block: Any) -> list[_Layer]:
        transformers = getattr(block, "attentions", None) or [None] * len(block.resnets)
        return [self._layer(resnet, transformer) for resnet, transformer in zip(block.resnets, transformers, strict=True)]

    def _mid_layers(self, block: Any) -> list[_Layer]:
        """Residual layer, then transformer + residual layer in turn."""
        transformers = [*block.attentions, None]
        return [self._layer(resnet, transformer) for resnet, transformer in zip(block.resnets, transformers, strict=True)]

    def _layer(self, resnet: nn.Module, transformer: Any) -> _Layer:
        layer = _Layer(resnet, transformer, self._vectors)
        self._vectors += 0 if transformer is None else len(transformer.transformer_blocks)
        return layer

    def _full_pass(self, latents_BChw: Tensor, embedding_RE: Tensor, seen: _Seen) -> tuple[Tensor, Tensor]:
        hidden = self.unet.conv_in(latents_BChw)
        skips = [hidden]
        for block, layers in zip(self.unet.down_blocks, self._down, strict=True):
            for layer in layers:
                hidden = _run(layer, hidden, embedding_RE, seen)
                skips.append(hidden)
            for downsampler in block.downsamplers or ():
                hidden = downsampler(hidden)
                skips.append(hidden)
        for layer in self._mid:
            hidden = _run(layer, hidden, embedding_RE, seen)
        for block, layers in zip(self.unet.up_blocks[:-1], self._up[:-1], strict=True):
            for layer in layers:
                hidden = _run(layer, _join(hidden, skips.pop()), embedding_RE, seen)
            size = tuple(skips[-1].shape[2:])  # odd sizes: up to exactly what the next block joins
            for upsampler in block.upsamplers or ():
                hidden = upsampler(hidden, size)
        for layer in self._up[-1][:-2]:
            hidden = _run(layer, _join(hidden, skips.pop()), embedding_RE, seen)
        return self._outermost(hidden, skips, embedding_RE, seen), hidden

    def _shallow_pass(self, latents_BChw: Tensor, embedding_RE: Tensor, seen: _Seen, deep_RChw: Tensor) -> Tensor:
        first = self.unet.conv_in(latents_BChw)
        skips = [first, _run(self._down[0][0], first, embedding_RE, seen)]
        return self._outermost(deep_RChw, skips, embedding_RE, seen)

    def _outermost(self, hidden: Tensor, skips: list[Tensor], embedding_RE: Tensor, seen: _Seen) -> Tensor:
        """The last two layers and the output; `skips` holds the first convolution and the first layer."""
        for layer in self._up[-1][-2:]:
            hidden = _run(layer, _join(hidden, skips.pop()), embedding_RE, seen)
        if self.unet.conv_norm_out is not None:
            hidden = self.unet.conv_act(self.unet.conv_norm_out(hidden))
        output: Tensor = self.unet.conv_out(hidden)
        return output


def _rows(hidden: Tensor, rows: int) -> Tensor:
    """Repeat what unconditional and conditional rows shared so far."""
    return hidden if hidden.shape[0] == rows else torch.cat([hidden] * (rows // hidden.shape[0]))


def _join(hidden: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([hidden, _rows(skip, hidden.shape[0])], dim=1)


def _run(layer: _Layer, hidden: Tensor, embedding_RE: Tensor, seen: _Seen) -> Tensor:
    hidden = layer.resnet(hidden if len(embedding_RE) == 1 else _rows(hidden, len(embedding_RE)), embedding_RE)
    if layer.transformer is None:
        return hidden
    vectors_RC, tokens_RTD = seen
    return _transform(layer.transformer, hidden, vectors_RC[layer.vector :], tokens_RTD)


def _transform(transformer: Any, hidden: Tensor, vectors_RC: Sequence[Tensor], context_RTD: Tensor) -> Tensor:
    """A spatial transformer whose cross-attentions are given vectors or, without these, attend to the condition."""
    height, width = hidden.shape[2:]
    residual, tokens = hidden, transformer.norm(hidden)
    if not transformer.use_linear_projection:
        tokens = transformer.proj_in(tokens)
    tokens = tokens.permute(0, 2, 3, 1).flatten(1, 2)
    if transformer.use_linear_projection:
        tokens = transformer.proj_in(tokens)
    for number, block in enumerate(transformer.transformer_blocks):
        tokens = block.attn1(block.norm1(tokens)) + tokens
        tokens = _rows(tokens, len(context_RTD))
        constant = vectors_RC[number][:, None] if vectors_RC else None
        attended = block.attn2(block.norm2(tokens), encoder_hidden_states=context_RTD) if constant is None else constant
        tokens = attended + tokens
        tokens = block.ff(block.norm3(tokens)) + tokens
    if transformer.use_linear_projection:
        tokens = transformer.proj_out(tokens)
    tokens = tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)
    if not transformer.use_linear_projection:
        tokens = transformer.proj_out(tokens.contiguous())
    output: Tensor = tokens + _rows(residual, len(tokens))
    return output
