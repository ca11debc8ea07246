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
# # Judge your encoder on your own clip
#
# Mark an object in the first frame, carry the mark through the clip with a frozen encoder, and measure how well it arrives. The
# clip here is a camera that moves over a photograph which comes inside scikit-image, so the truth is known in every frame; put
# your own frames in its place.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image, ImageDraw
from skimage import data

from cdgmae import load_encoder, propagate

FRAMES, WIDTH, HEIGHT = 8, 320, 240
astronaut = Image.fromarray(data.astronaut())
truth = Image.new("L", astronaut.size)
ImageDraw.Draw(truth).ellipse((175, 45, 275, 205), fill=1)  # the face
ImageDraw.Draw(truth).rectangle((330, 0, 512, 160), fill=2)  # the shuttle, with what is behind it


def camera(image: Image.Image, step: int, resample: Image.Resampling) -> Image.Image:
    """What the camera sees: it moves to the right and comes nearer."""
    left, top, zoom = 60 + 8 * step, 6 * step, 1 - 0.03 * step
    return image.resize((WIDTH, HEIGHT), resample, box=(left, top, left + 400 * zoom, top + 300 * zoom))


frames = [camera(astronaut, step, Image.Resampling.BILINEAR) for step in range(FRAMES)]
truths = [torch.from_numpy(np.array(camera(truth, step, Image.Resampling.NEAREST))) for step in range(FRAMES)]

# %% [markdown]
# ## Carry the first mask through the clip
#
# `propagate` follows the published protocol: each patch of a frame takes the labels of its nearest patches in the first frame
# and the last twenty. `load_encoder` takes a file of this package, CropMAE, SiamMAE, MAE, DINO or VideoMAE, a timm name, or a
# Vision Transformer of timm that you built or trained.

# %%
network = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=224)  # yours here; this one is untrained
encoders = {
    "pixels of 8 x 8": load_encoder("pixels:8"),
    "pixels of 16 x 16": load_encoder("pixels:16"),
    "untrained ViT": load_encoder(network),
}
masks = {name: propagate(frames, truths[0], encoder) for name, encoder in encoders.items()}

# %% [markdown]
# ## Look at it

# %%
shown = [0, 3, 7]
figure, axes = plt.subplots(len(masks), len(shown), figsize=(3 * len(shown), 2.4 * len(masks)))
for row, (name, ids) in zip(axes, masks.items(), strict=True):
    for axis, step in zip(row, shown, strict=True):
        axis.imshow(frames[step])
        axis.imshow(np.ma.masked_equal(ids[step].numpy(), 0), alpha=0.55, cmap="autumn", vmin=1, vmax=2)
        axis.contour(truths[step].numpy() > 0, levels=[0.5], colors="white", linewidths=1)
        axis.axis("off")
        axis.set_title(f"{name}, frame {step}", fontsize=9)
figure.tight_layout()

# %% [markdown]
# ## Measure it
#
# J is the overlap of found and true region, here per frame and averaged over the two objects. The untrained network sees little
# more than the pixels of its own patches of 16; patches of 8 are finer, on a clip in which nothing changes but place and size.
# These are the floors: what your encoder has above the one of its patch size, its training gave.

# %%


def overlap(found: torch.Tensor, true: torch.Tensor) -> float:
    """Mean intersection over union of the objects that are to be seen."""
    objects = [number for number in (1, 2) if bool((true == number).any())]
    pairs = [(found == number, true == number) for number in objects]
    return sum(float((a & b).sum() / (a | b).sum()) for a, b in pairs) / len(pairs)


scores = pd.DataFrame({name: [overlap(ids[step], truths[step]) for step in range(1, FRAMES)] for name, ids in masks.items()})
scores.index = range(1, FRAMES)
axis = scores.plot(figsize=(6, 3), ylim=(0, 1), xlabel="frame", ylabel="J")
axis.figure.tight_layout()
scores.mean().round(3).to_frame("mean J")

# %% [markdown]
# ## A set of clips
#
# For more than a look, lay your clips out as DAVIS does (`JPEGImages/480p/CLIP/00000.jpg`, `Annotations/480p/CLIP/00000.png`,
# `ImageSets/2017/val.txt`). Then
#
# ```
# cdgmae propagation check davis --root my_clips
# cdgmae propagation run davis --root my_clips --set lab --encoder encoder.safetensors --output out --overlays gif
# ```
#
# give J, F and J&F per object by the official measures, and overlays to look at. Several encoders side by side, with intervals:
# [stage propagation](../stages/propagation.html).
