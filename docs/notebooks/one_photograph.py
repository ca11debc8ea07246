# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One photograph: its bag, its scores, its patches
#
# What the stages *views* and *consistency* do with a million images, here with one: make views of it, score how well they agree
# with it, and look at which patch finds which. The photograph comes inside scikit-image; nothing is downloaded.

# %%
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from skimage import data

from cdgmae import Bags, load_encoder, pack_images, score_pairs

cat = Image.fromarray(data.chelsea()).crop((60, 0, 360, 300))

# %% [markdown]
# ## A bag of views
#
# Views normally come from a generator (`load_generator` and `sample_views`, once you have one: the demo leaves
# `results/generators/s_ldm`). Any other way is as good to the rest: here the same cat is shifted, enlarged, mirrored and turned
# grey, and the last view is another photograph.

# %%
whole = Image.fromarray(data.chelsea())
views = {
    "shifted": whole.crop((120, 0, 420, 300)),
    "enlarged": whole.crop((110, 50, 310, 250)).resize((300, 300)),
    "mirrored": cat.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "grey": cat.convert("L").convert("RGB"),
    "other": Image.fromarray(data.coffee()).crop((100, 50, 400, 350)),
}


def show(images: dict[str, Image.Image]) -> None:
    figure, axes = plt.subplots(1, len(images), figsize=(2 * len(images), 2.3))
    for axis, (name, image) in zip(axes, images.items(), strict=True):
        axis.imshow(image)
        axis.set_title(name, fontsize=10)
        axis.axis("off")
    figure.tight_layout()


show({"real image": cat} | views)

# %% [markdown]
# ## Its scores
#
# GS compares the images as wholes, LS the patches at equal places, NPS each patch of the real image with its nearest patch in
# the view. The encoder is raw pixels of 16 x 16 patches, which need no weights; the paper takes `vit_base_patch16_224.mae`,
# which timm downloads once.

# %%
encoder = load_encoder("pixels:16")
scores = score_pairs(cat, list(views.values()), encoder)
scores.index = list(views)
scores.round(3)

# %% [markdown]
# A view that teaches correspondence keeps NPS high while LS drops: the same things, elsewhere. Shifted, enlarged and mirrored
# views do that. That the cup of coffee has nearly their NPS, and the same cat in grey has not, says what this encoder sees:
# colours. Scores are as good as the encoder behind them, and compare only where it is the same.

# %%
figure, axis = plt.subplots(figsize=(6, 3))
scores[["ls", "nps"]].plot.bar(ax=axis, rot=0, color=["#9fa8da", "#3949ab"])
axis.set_ylabel("cosine similarity")
axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
figure.tight_layout()

# %% [markdown]
# ## Its patches
#
# `encoder.tokens` gives one CLS token and a token per patch, row by row. For one patch of the real image (the eye), the
# similarity to every patch of each view shows where the encoder would look for it; the cross marks the nearest. The eye is
# found wherever it went, and something dark in the cup.

# %%
SIDE, PATCH = 224, 16
CELLS = SIDE // PATCH


def patches(image: Image.Image) -> torch.Tensor:
    """Tokens of the patches of one image, scaled to length 1."""
    pixels = torch.from_numpy(np.array(image.resize((SIDE, SIDE)))).permute(2, 0, 1) / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    tokens = encoder.tokens(((pixels - mean[:, None, None]) / deviation[:, None, None])[None])[0, 1:]
    return torch.nn.functional.normalize(tokens, dim=1)


row, column = 4, 5  # the patch, counted from the upper left corner
query = patches(cat)[row * CELLS + column]
figure, axes = plt.subplots(1, 1 + len(views), figsize=(2 * (1 + len(views)), 2.3))
axes[0].imshow(cat.resize((SIDE, SIDE)))
axes[0].add_patch(plt.Rectangle((column * PATCH, row * PATCH), PATCH, PATCH, fill=False, color="red", linewidth=2))
axes[0].set_title("real image", fontsize=10)
for axis, (name, view) in zip(axes[1:], views.items(), strict=True):
    similarity = (patches(view) @ query).reshape(CELLS, CELLS).numpy()
    best = int(similarity.argmax())
    axis.imshow(view.resize((SIDE, SIDE)))
    axis.imshow(similarity, extent=(0, SIDE, SIDE, 0), alpha=0.5, cmap="magma")
    axis.plot((best % CELLS + 0.5) * PATCH, (best // CELLS + 0.5) * PATCH, "x", color="red", markersize=9, markeredgewidth=2)
    axis.set_title(name, fontsize=10)
for axis in axes:
    axis.axis("off")
figure.tight_layout()

# %% [markdown]
# ## Keep the bag
#
# Packed, the bag is what every command reads: `cdgmae views show`, `cdgmae consistency score`, `cdgmae pretrain run`.

# %%
folder = mkdtemp()
pack_images({"cat": cat}, f"{folder}/real")
pack_images({"cat": list(views.values())}, f"{folder}/views", first_view=1)[["key", "view_index", "width", "height", "length"]]

# %%
bag = Bags(f"{folder}/real", f"{folder}/views").images("cat")
show({"view 0": bag[0]} | {f"view {number}": image for number, image in enumerate(bag[1:], start=1)})
