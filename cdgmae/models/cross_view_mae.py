"""The cross-view masked autoencoder: CDG-MAE, CropMAE, SiamMAE and, with CropMAE's decoder, plain MAE by configuration.

Source: spec cross_view_mae section 1, paper equations 4-10. Parameter names follow the published checkpoints.
Shapes: B batch, A anchors, C = 3, H W image, N patches, V visible patches, T = 1 + N tokens, M memory tokens, D encoder width,
E decoder width, P patch side.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from cdgmae.models.decoder import DecoderBlock
from cdgmae.models.encoders.checkpoints import KeyReport, load_weights
from cdgmae.models.masking import PatchMask, count_visible, draw_mask
from cdgmae.models.positions import sincos_positions
from cdgmae.models.sample_dropout import SampleDropout
from cdgmae.settings.encoder import VitSettings
from cdgmae.settings.pretrain import PretrainRunSettings

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class CrossViewOutput(NamedTuple):
    """Loss (scalar), prediction (B, N, 3 P^2) of every target patch, and the target mask (B, N), 1 = masked."""

    loss: Tensor
    prediction_BNP: Tensor
    masked_BN: Tensor


class CrossViewMAE(nn.Module):
    """Siamese ViT encoder, multi-anchor memory, cross-attention decoder.

    Attributes:
        img_size: Side of the square images it takes, in pixels.
        patch_size: Side of a patch in pixels.
        num_heads: Attention heads of the encoder.
        target_masking_ratio: Share of the target's patches that is masked; may be changed between calls.
        anchor_masking_ratio: Share of each anchor's patches that is dropped; may be changed between calls.
        norm_pix_loss: Whether the loss compares patches of zero mean and unit variance.
        anchor_positions: Whether the anchors' tokens get the decoder's positions; the published models give them none.
        anchor_cls_in_memory: Whether the decoder also attends to the anchors' CLS tokens, as in the published models.
    """

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        decoder_embed_dim: int = 256,
        decoder_depth: int = 4,
        decoder_num_heads: int = 8,
        norm_pix_loss: bool = True,
        target_masking_ratio: float = 0.9,
        anchor_masking_ratio: float = 0.0,
        decoder_dropout: float = 0.1,
        anchor_positions: bool = False,
        anchor_cls_in_memory: bool = True,
    ) -> None:
        super().__init__()
        common = {"image_size": img_size, "patch_size": patch_size}
        VitSettings.checked({**common, "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}, "CrossViewMAE")
        decoder = {"embed_dim": decoder_embed_dim, "depth": decoder_depth, "num_heads": decoder_num_heads}
        VitSettings.checked({**common, **decoder}, "CrossViewMAE's decoder")
        self.img_size, self.patch_size, self.norm_pix_loss = img_size, patch_size, norm_pix_loss
        self.target_masking_ratio, self.anchor_masking_ratio = target_masking_ratio, anchor_masking_ratio
        self.anchor_positions, self.anchor_cls_in_memory = anchor_positions, anchor_cls_in_memory
        self.num_heads = num_heads
        grid = img_size // patch_size
        self.patch_embed = PatchEmbed(img_size, patch_size, 3, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(sincos_positions(embed_dim, grid), requires_grad=False)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth))
        self.norm = LayerNorm(embed_dim)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(sincos_positions(decoder_embed_dim, grid), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            DecoderBlock(decoder_embed_dim, decoder_num_heads, decoder_dropout) for _ in range(decoder_depth)
        )
        self.decoder_norm = LayerNorm(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, 3 * patch_size**2)
        self._initialise()

    @classmethod
    def from_settings(cls, settings: PretrainRunSettings) -> Self:
        """The untrained model of a pre-training run."""
        return cls(
            img_size=settings.image_size,
            patch_size=settings.patch_size,
            embed_dim=settings.embed_dim,
            depth=settings.depth,
            num_heads=settings.num_heads,
            decoder_embed_dim=settings.decoder_embed_dim,
            decoder_depth=settings.decoder_depth,
            decoder_num_heads=settings.decoder_num_heads,
            norm_pix_loss=settings.norm_pix_loss,
            target_masking_ratio=settings.target_masking_ratio,
            anchor_masking_ratio=settings.anchor_masking_ratio,
            anchor_positions=settings.anchor_positions,
            anchor_cls_in_memory=settings.anchor_cls_in_memory,
        )

    def _initialise(self) -> None:
        """Published initialisation (spec 1.7): xavier-uniform matrices, zero biases, N(0, 0.02) tokens."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(self.patch_embed.proj.out_channels, -1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        target_BCHW: Tensor,
        anchors_BACHW: Tensor | None = None,
        target_noise_BN: Tensor | None = None,
        anchor_noise_BAN: Tensor | None = None,
        dropout_seeds_B: Tensor | None = None,
    ) -> CrossViewOutput:
        """Reconstruct the masked target patches from its visible ones and the anchors.

        Args:
            target_BCHW: ImageNet-normalised target views.
            anchors_BACHW: Anchor views, or None for plain MAE.
            target_noise_BN: Masking noise of the target; drawn if not given.
            anchor_noise_BAN: Masking noise of the anchors; drawn if not given and needed.
            dropout_seeds_B: One int64 seed per sample for the decoder's dropout, which then does not depend on how a batch is
                split; slower than batched draws on a GPU. Without it dropout draws from torch's global generator. Eval mode
                drops nothing.

        Raises:
            ValueError: if a shape does not fit the model or the other inputs, or no patch is masked.
        """
        self._check_views(target_BCHW, anchors_BACHW)
        self._check_draws(target_BCHW.shape[0], anchors_BACHW, target_noise_BN, anchor_noise_BAN, dropout_seeds_B)
        visible_BVD, mask = self._encode_target(target_BCHW, target_noise_BN)
        memory_BME = None if anchors_BACHW is None else self._anchor_memory(anchors_BACHW, anchor_noise_BAN)
        draws = SampleDropout(dropout_seeds_B) if dropout_seeds_B is not None and self.training else None
        prediction_BNP = self._decode(visible_BVD, mask, memory_BME, draws)
        return CrossViewOutput(self._loss(target_BCHW, prediction_BNP, mask.masked_BN), prediction_BNP, mask.masked_BN)

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Final-norm tokens (B, 1 + N, D) of unmasked images, CLS first.

        Raises:
            ValueError: if the images are not of the model's size.
        """
        self._check_views(images_BCHW, None)
        return self._run_blocks(self._embed(images_BCHW))

    def load_checkpoint(self, path: str | Path, *, encoder_only: bool = False) -> KeyReport:
        """Load weights from a file: all of it, or nothing.

        Reads `model.safetensors` and `encoder.safetensors` of this package, CropMAE and SiamMAE `.pth`, and, with `encoder_only`,
        MAE and DINO `.pth` and timm state dicts. Files are never unpickled beyond tensors and plain values.

        Args:
            path: The file.
            encoder_only: Load only the encoder and keep the decoder's values; a decoder or head in the file is left out.

        Returns:
            Which keys matched and which of the file were left out.

        Raises:
            CheckpointError: if the file is truncated, foreign or does not fit, with matched, missing, unexpected and reshaped
                keys and what to do; the model is left as it was.
        """
        return load_weights(self, Path(path), num_heads=self.num_heads, encoder_only=encoder_only)

    def patchify(self, images_BCHW: Tensor) -> Tensor:
        """Pixels of each patch, (B, N, 3 P^2): rows of patches, within a patch (y, x, channel), channel fastest."""
        batch, channels, height, width = images_BCHW.shape
        p = self.patch_size
        cells = images_BCHW.reshape(batch, channels, height // p, p, width // p, p)
        return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, p * p * channels)

    def _check_views(self, target_BCHW: Tensor, anchors_BACHW: Tensor | None) -> None:
        for name, images in (("images", target_BCHW), ("anchors", anchors_BACHW)):
            if images is not None and not (isinstance(images, Tensor) and images.is_floating_point()):
                raise ValueError(
                    f"{name}: found {getattr(images, 'dtype', type(images).__name__)}; give normalised images as float tensor"
                )
        side = self.img_size
        if target_BCHW.ndim != 4 or tuple(target_BCHW.shape[1:]) != (3, side, side):
            raise ValueError(
                f"images have shape {tuple(target_BCHW.shape)}; this model takes (batch, 3, {side}, {side}): "
                "resize or crop them, or build the model with another img_size"
            )
        if anchors_BACHW is None:
            return
        expected = (target_BCHW.shape[0], 3, side, side)
        shape = tuple(anchors_BACHW.shape)
        if len(shape) != 5 or shape[:1] + shape[2:] != expected or shape[1] < 1:
            raise ValueError(
                f"anchors have shape {shape}; with this target it must be ({expected[0]}, number of anchors >= 1, 3, {side}, {side}). "
                "Give None for no anchor (plain MAE)"
            )

    def _check_draws(
        self,
        batch: int,
        anchors_BACHW: Tensor | None,
        target_noise_BN: Tensor | None,
        anchor_noise_BAN: Tensor | None,
        dropout_seeds_B: Tensor | None,
    ) -> None:
        patches = (self.img_size // self.patch_size) ** 2
        for name in ("target_masking_ratio", "anchor_masking_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}; allowed: 0..1")
        if count_visible(patches, self.target_masking_ratio) >= patches:
            raise ValueError(
                f"target_masking_ratio = {self.target_masking_ratio} masks none of {patches} patches, so there is nothing to "
                "reconstruct; raise it"
            )
        if count_visible(patches, self.anchor_masking_ratio) < 1 and not self.anchor_cls_in_memory and anchors_BACHW is not None:
            raise ValueError(
                f"anchor_masking_ratio = {self.anchor_masking_ratio} leaves nothing of the anchors to attend to; lower it"
            )
        if anchor_noise_BAN is not None and anchors_BACHW is None:
            raise ValueError("anchor noise is given, but no anchors; give both or neither")
        num_anchors = 0 if anchors_BACHW is None else anchors_BACHW.shape[1]
        for name, tensor, expected in (
            ("target noise", target_noise_BN, (batch, patches)),
            ("anchor noise", anchor_noise_BAN, (batch, num_anchors, patches)),
            ("dropout seeds", dropout_seeds_B, (batch,)),
        ):
            if tensor is not None and tuple(tensor.shape) != expected:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; with these views it must be {expected}")

    def _embed(self, images_BCHW: Tensor) -> Tensor:
        """Patch tokens with their positions: added before masking, so a kept patch knows where it was."""
        embedded: Tensor = self.patch_embed(images_BCHW) + self.pos_embed[:, 1:]
        return embedded

    def _run_blocks(self, patches_BVD: Tensor) -> Tensor:
        cls_B1D = (self.cls_token + self.pos_embed[:, :1]).expand(patches_BVD.shape[0], -1, -1)
        tokens = torch.cat([cls_B1D, patches_BVD], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def _encode_target(self, target_BCHW: Tensor, noise_BN: Tensor | None) -> tuple[Tensor, PatchMask]:
        patches_BND = self._embed(target_BCHW)
        if noise_BN is None:
            noise_BN = torch.rand(patches_BND.shape[:2], device=patches_BND.device)
        mask = draw_mask(noise_BN, self.target_masking_ratio)
        return self._run_blocks(mask.keep(patches_BND)), mask

    def _anchor_memory(self, anchors_BACHW: Tensor, noise_BAN: Tensor | None) -> Tensor:
        """What the decoder attends to, (B, M, E), M = A (1 + V).

        Each anchor is encoded on its own with its own mask, all in one batched pass; the tokens are concatenated (eq. 6, 7).
        """
        patches, mask = self._embed(anchors_BACHW.flatten(0, 1)), None
        if self.anchor_masking_ratio > 0:
            noise = torch.rand(patches.shape[:2], device=patches.device) if noise_BAN is None else noise_BAN.flatten(0, 1)
            mask = draw_mask(noise, self.anchor_masking_ratio)
            patches = mask.keep(patches)
        memory: Tensor = self.decoder_embed(self._run_blocks(patches))
        if self.anchor_positions:
            positions = self.decoder_pos_embed.expand(memory.shape[0], -1, -1)
            memory = memory + (positions if mask is None else torch.cat([positions[:, :1], mask.keep(positions[:, 1:])], dim=1))
        if not self.anchor_cls_in_memory:
            memory = memory[:, 1:]
        return memory.reshape(anchors_BACHW.shape[0], -1, memory.shape[-1])

    def _decode(self, visible_BVD: Tensor, mask: PatchMask, memory_BME: Tensor | None, draws: SampleDropout | None) -> Tensor:
        embedded = self.decoder_embed(visible_BVD)
        num_masked = mask.restore_BN.shape[1] - mask.visible_BV.shape[1]
        mask_tokens = self.mask_token.to(embedded.dtype).expand(embedded.shape[0], num_masked, -1)
        shuffled = torch.cat([embedded[:, 1:], mask_tokens], dim=1)
        patches = shuffled.gather(1, mask.restore_BN[..., None].expand(-1, -1, shuffled.shape[-1]))
        tokens = torch.cat([embedded[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = block(tokens, memory_BME, draws)
        prediction: Tensor = self.decoder_pred(self.decoder_norm(tokens))
        return prediction[:, 1:]

    def _loss(self, target_BCHW: Tensor, prediction_BNP: Tensor, masked_BN: Tensor) -> Tensor:
        """Mean squared error over the masked patches of the whole batch (eq. 10), in float32."""
        patches_BNP = self.patchify(target_BCHW).float()
        if self.norm_pix_loss:
            variance, mean = torch.var_mean(patches_BNP, dim=-1, keepdim=True)  # the unbiased variance, as published
            patches_BNP = (patches_BNP - mean) / (variance + 1e-6).sqrt()
        error_BN = (prediction_BNP.float() - patches_BNP).square().mean(dim=-1)
        return (error_BN * masked_BN).sum() / masked_BN.sum()
