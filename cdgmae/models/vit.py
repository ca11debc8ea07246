"""Plain ViT encoders as timm models, so that what is trained here loads anywhere timm does."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cdgmae.models.positions import sincos_positions
from cdgmae.settings.encoder import VitSettings


def build_vit(settings: VitSettings, *, class_token: bool = True) -> VisionTransformer:
    """A timm ViT without head, initialised like the encoder of `CrossViewMAE` (spec cross_view_mae 1.7).

    Args:
        settings: Dimensions.
        class_token: Whether there is a CLS token; video encoders have none.
    """
    vit = VisionTransformer(
        img_size=settings.image_size,
        patch_size=settings.patch_size,
        embed_dim=settings.embed_dim,
        depth=settings.depth,
        num_heads=settings.num_heads,
        num_classes=0,
        class_token=class_token,
        global_pool="token" if class_token else "avg",
        fc_norm=False,
    )
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(vit.patch_embed.proj.weight.view(settings.embed_dim, -1))
    positions_1TD = sincos_positions(settings.embed_dim, settings.image_size // settings.patch_size)
    if class_token:
        nn.init.normal_(vit.cls_token, std=0.02)
    vit.pos_embed.data.copy_(positions_1TD if class_token else positions_1TD[:, 1:])
    return vit
