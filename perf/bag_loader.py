"""How many samples per second one core prepares, against the straightforward loader: `python perf/bag_loader.py [FOLDER]`.

Compared, interleaved, on the same draws of one anchor and one target per bag:
  (a) loose JPEG files, each drawn view opened by Pillow and put through torchvision's transforms one by one;
  (b) JPEG decoding of the drawn views alone (simplejpeg from memory), the floor;
  (c) the package's loader: plan, read from shards, decode, cut, masks, stack;
  (d) the loader and `finish_views` on the CPU, which is all that (a) does; on a GPU that part runs on the GPU.
Two kinds of bags: 256 x 256 views as the generator stores them (the paper's), and photographs of about 500 x 375 pixels. FOLDER holds
JPEG photographs; without it they are drawn.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from cdgmae.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from cdgmae.pretrain.augment import finish_views
from cdgmae.pretrain.batches import BagBatches
from cdgmae.pretrain.pretext import plan_sample
from cdgmae.runtime.seeds import numpy_generator
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.image_shards import ImageRow, ImageShardWriter
from cdgmae.storage.media.images import decode_rgb, encode_jpeg

BAGS, VIEWS, ROUNDS = 128, 4, 7
RUN = PretrainRunSettings(num_anchors=1, effective_batch_size=BAGS, epochs=100)


def photographs(folder: Path | None, count: int) -> list[Image.Image]:
    """Photographs from a folder, repeated as needed, or drawn clouds with the spectrum of photographs."""
    if folder is not None:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:count]
        return [decode_rgb(files[number % len(files)].read_bytes()) for number in range(count)]
    generator = np.random.default_rng(0)
    return [clouds(generator, 500, 375) for _ in range(count)]


def clouds(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise whose amplitude falls with frequency as in photographs (1/f)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    spectrum = np.fft.rfft2(generator.standard_normal((3, height, width))) / np.maximum(frequency, 1 / width)
    channels = np.fft.irfft2(spectrum, (height, width))
    return Image.fromarray((128 + 45 * channels / channels.std()).clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy())


def write_bags(folder: Path, images: list[Image.Image]) -> Bags:
    """One image shard and one view shard, and the same JPEGs as loose files `{row}.jpg` beside them."""
    reals, views = folder / "shards.tar", folder / "views.tar"
    for tar, indices in ((reals, [0]), (views, list(range(1, VIEWS + 1)))):
        with ImageShardWriter(tar) as writer:
            for number in range(BAGS):
                for index in indices:
                    image = images[(number * 7 + index) % len(images)]
                    row = ImageRow(f"k{number:04d}", index, extension="jpg", width=image.width, height=image.height)
                    writer.add_image(row, encode_jpeg(image, 95 if image.size == (256, 256) else 88))
            writer.commit(settings_digest="benchmark")
    store = Bags([reals], [views]).usable()
    for position in range(len(store)):
        for row in store.bag(position).rows:
            (folder / f"{row}.jpg").write_bytes(store.read(row))
    return store


def drawn_rows(batches: BagBatches, step: int) -> list[int]:
    """Rows of all views that a step shows."""
    epoch, positions = batches.keys(step)
    bags = [batches.store.bag(position) for position in positions.tolist()]
    plans = [plan_sample(RUN, numpy_generator(batches.seed, "pretrain/views", bag.key, epoch), bag) for bag in bags]
    return [bag.rows[place] for bag, plan in zip(bags, plans, strict=True) for place in plan.images]


def straightforward(folder: Path, rows: list[int]) -> Tensor:
    """(a): what a first version does."""
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(RUN.image_size, scale=RUN.crop_scale, ratio=RUN.crop_ratio),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    views = [augment(Image.open(folder / f"{row}.jpg").convert("RGB")) for row in rows]
    return torch.stack(views).view(BAGS, -1, 3, RUN.image_size, RUN.image_size)


def seconds(action: Callable[[], object]) -> float:
    """CPU seconds of one call: other work on the machine does not count."""
    started = time.process_time()
    action()
    return time.process_time() - started


def measure(name: str, images: list[Image.Image]) -> None:
    """Print samples per second and core of the four ways, and the two ratios of interest."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = write_bags(folder, images)
        batches = BagBatches(store, RUN, seed=0, cache_bytes=0)
        times: dict[str, list[float]] = {way: [] for way in "abcdp"}
        for step in range(ROUNDS + 1):
            rows = drawn_rows(batches, step)
            data = [store.read(row) for row in rows]
            taken = {
                "a": seconds(lambda rows=rows: straightforward(folder, rows)),
                "b": seconds(lambda data=data: [simplejpeg.decode_jpeg(encoded) for encoded in data]),
                "c": seconds(lambda step=step: batches.batch(step, range(BAGS))),
                "d": seconds(lambda step=step: finish_views(batches.batch(step, range(BAGS)), RUN.image_size)),
                "p": seconds(lambda data=data: [np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")) for encoded in data]),
            }
            for way, value in taken.items():
                times[way].append(value / BAGS)
        median = {way: statistics.median(values[1:]) for way, values in times.items()}
        size = statistics.mean(len(encoded) for encoded in data) / 1e3
    print(f"{name}, {size:.0f} kB per JPEG, 2 views per sample; samples/s per core (microseconds per sample):")
    for way, text in {
        "a": "(a) Pillow + torchvision, loose files",
        "p": "    of which decoding by Pillow",
        "b": "(b) simplejpeg alone",
        "c": "(c) loader",
        "d": "(d) loader + finish_views on the CPU",
    }.items():
        print(f"  {text:40} {1 / median[way]:7.0f} ({1e6 * median[way]:.0f})")
    print(f"  (c) is {median['a'] / median['c']:.2f} x (a), and takes {median['c'] / median['b']:.2f} x the time of (b)")
    print(f"  (d) is {median['a'] / median['d']:.2f} x (a)")


def measure_overhead() -> None:
    """Print the interpreter's share: everything of a sample but reading, decoding and copying pixels."""
    with tempfile.TemporaryDirectory() as temporary:
        tiny = [Image.new("RGB", (16, 16), (9, 90, 200))]
        store = write_bags(Path(temporary), tiny)
        run = RUN.model_copy(update={"image_size": 16, "patch_size": 1, "effective_batch_size": BAGS})
        batches = BagBatches(store, run, seed=0)
        for step in range(20):
            batches.batch(step, range(BAGS))
        values = [seconds(lambda step=step: batches.batch(step, range(BAGS))) / BAGS for step in range(ROUNDS)]
    print(f"without reading and decoding (16 x 16 images, cached): {1e6 * statistics.median(values):.0f} microseconds per sample")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="Folder of JPEG photographs.")
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    images = photographs(folder, 64)
    measure("256 x 256 views", [image.resize((256, 256), Image.Resampling.BICUBIC) for image in images])
    measure("photographs", images)
    measure_overhead()


if __name__ == "__main__":
    main()
