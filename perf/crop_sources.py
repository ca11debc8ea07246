"""What CropMAE's crops lose when images are packed smaller, and what packing them larger costs: `python perf/crop_sources.py FOLDER`.

FOLDER holds photographs, e.g. ImageNet's. Each is packed in three ways (shorter side 256 and 512 at JPEG quality 95, and its own bytes); the
same global crops (CropMAE's scale and ratio) are cut from all three and scaled to 224 pixels, as the loader does. Baseline: the originals.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from cdgmae.pretrain.augment import resize_pixels
from cdgmae.runtime.seeds import numpy_generator
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.media.crop_boxes import draw_crop
from cdgmae.storage.media.images import decode_rgb, encode_jpeg, resize_shorter_side
from cdgmae.storage.media.pixels import decode_pixels

CROPMAE = PretrainRunSettings(pretext="crops", crop_strategy="local_to_global", target_masking_ratio=0.985)
CROPS, ROUNDS, IMAGENET = 20, 7, 1_281_167
SIDES = {"originals": None, "shorter side 512": 512, "shorter side 256": 256}


def packed(data: bytes, side: int | None) -> bytes:
    """An image as a shard holds it."""
    return data if side is None else encode_jpeg(resize_shorter_side(decode_rgb(data), side), 95)


def crops_of(name: str, original: tuple[int, int], pixels: np.ndarray) -> list[tuple[bool, np.ndarray]]:
    """Whether each global crop is enlarged, and its 224 x 224 pixels; draws are shares of the sides, for all packings those of the original."""
    size, found = (pixels.shape[1], pixels.shape[0]), []
    for number in range(CROPS):
        generator = numpy_generator(0, "perf/crop_sources", name, number)
        box = draw_crop(generator, original, CROPMAE.global_crop_scale, CROPMAE.crop_ratio).pixels(size)
        region = torch.from_numpy(pixels[box.top : box.bottom, box.left : box.right].copy()).permute(2, 0, 1)
        scaled = resize_pixels(region, CROPMAE.image_size).permute(1, 2, 0).numpy()
        found.append((min(box.size) < CROPMAE.image_size, scaled.astype(np.float64)))
    return found


def seconds_per_image(images: list[bytes]) -> float:
    """CPU time of decoding one image, the median over rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for data in images:
            decode_pixels(data)
        times.append((time.process_time() - start) / len(images))
    return float(np.median(times))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    files = sorted(path for path in parser.parse_args().folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    originals = [path.read_bytes() for path in files]
    sizes = [decode_rgb(data).size for data in originals]
    reference: list[np.ndarray] = []
    base: tuple[float, float] | None = None
    print(f"{len(files)} images, {CROPS} global crops each\n")
    print(
        "| packed as | crops enlarged | grey levels off | detail (mean Laplacian) | kB per image | ImageNet GB | decoding ms | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for label, side in SIDES.items():
        images = [packed(data, side) for data in originals]
        crops = [
            crop
            for path, size, data in zip(files, sizes, images, strict=True)
            for crop in crops_of(path.name, size, decode_pixels(data))
        ]
        reference = reference or [pixels for _, pixels in crops]
        enlarged = float(np.mean([larger for larger, _ in crops]))
        off = float(np.mean([np.abs(pixels - true).mean() for (_, pixels), true in zip(crops, reference, strict=True)]))
        detail = float(np.mean([np.abs(ndimage.laplace(pixels.mean(axis=2))).mean() for _, pixels in crops]))
        kept, seconds = float(np.mean([len(data) for data in images])), seconds_per_image(images)
        base = base or (detail, seconds)
        print(
            f"| {label} | {enlarged:.1%} | {off:.2f} | {detail:.2f} ({detail / base[0] - 1:+.0%}) | {kept / 1e3:.0f} | "
            f"{kept * IMAGENET / 1e9:.0f} | {1e3 * seconds:.2f} | {seconds / base[1]:.2f} |"
        )


if __name__ == "__main__":
    main()
