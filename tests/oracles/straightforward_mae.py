"""The cross-view MAE as one writes it down without care for speed, with the published parameter names.

One encoder pass per anchor view over the batch, attention as explicit softmax, the decoder by `nn.MultiheadAttention`. It loads
the state dict of `CrossViewMAE` strictly; the tests hold the losses together and the benchmark compares their speed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention by explicit matrix products."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        weights = ((query @ key.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim, num_heads), Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Cross-attention, feed-forward, self-attention, post-norm."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.self_attn = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, 2048), nn.Linear(2048, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = self.norm2(x + self.dropout(self.multihead_attn(x, memory, memory, need_weights=False)[0]))
        x = self.norm3(x + self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(x))))))
        return self.norm1(x + self.dropout(self.self_attn(x, x, x, need_weights=False)[0]))


class StraightforwardMAE(nn.Module):
    """ViT encoder and decoder of 256/4/8 by default; loss only, pixels normalised per patch."""

    def __init__(
        self, img_size: int = 224, patch_size: int = 16, embed_dim: int = 384, depth: int = 12, num_heads: int = 6,
        decoder_embed_dim: int = 256, decoder_depth: int = 4, decoder_num_heads: int = 8,
        target_masking_ratio: float = 0.9, anchor_masking_ratio: float = 0.0, decoder_dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        patches = (img_size // patch_size) ** 2
        self.patch_size, self.target_ratio, self.anchor_ratio = patch_size, target_masking_ratio, anchor_masking_ratio
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, embed_dim, patch_size, patch_size)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, embed_dim), requires_grad=False)
        self.blocks = nn.ModuleList(EncoderBlock(embed_dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, decoder_embed_dim), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            DecoderBlock(decoder_embed_dim, decoder_num_heads, decoder_dropout) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_embed_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_embed_dim, 3 * patch_size**2)

    def forward(self, target: Tensor, anchors: Tensor, target_noise: Tensor, anchor_noise: Tensor) -> Tensor:
        """The loss; the arguments are those of `CrossViewMAE.forward`."""
        visible, restore, masked = self.encode(target, self.target_ratio, target_noise)
        memory = [self.encode(anchors[:, i], self.anchor_ratio, anchor_noise[:, i])[0] for i in range(anchors.shape[1])]
        prediction = self.decode(visible, restore, torch.cat([self.decoder_embed(tokens) for tokens in memory], dim=1))
        p = self.patch_size
        grid = target.shape[-1] // p
        patches = torch.einsum("nchpwq->nhwpqc", target.reshape(len(target), 3, grid, p, grid, p)).reshape(
            len(target), grid**2, -1
        )
        patches = (patches - patches.mean(dim=-1, keepdim=True)) / (patches.var(dim=-1, keepdim=True) + 1e-6) ** 0.5
        error = ((prediction - patches) ** 2).mean(dim=-1)
        return (error * masked).sum() / masked.sum()

    def encode(self, images: Tensor, ratio: float, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of the visible patches, how to restore their order, and the mask."""
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        keep = int(x.shape[1] * (1 - ratio))
        order = torch.argsort(noise, dim=1)
        restore = torch.argsort(order, dim=1)
        if ratio > 0:
            x = torch.gather(x, 1, order[:, :keep, None].repeat(1, 1, x.shape[2]))
        masked = torch.ones_like(noise)
        masked[:, :keep] = 0
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), restore, torch.gather(masked, 1, restore)

    def decode(self, visible: Tensor, restore: Tensor, memory: Tensor) -> Tensor:
        """Prediction of every patch."""
        x = self.decoder_embed(visible)
        mask_tokens = self.mask_token.repeat(len(x), restore.shape[1] + 1 - x.shape[1], 1)
        patches = torch.cat([x[:, 1:], mask_tokens], dim=1)
        patches = torch.gather(patches, 1, restore[..., None].repeat(1, 1, x.shape[2]))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x, memory)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]
