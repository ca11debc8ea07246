"""What one core prepares of a training's batches, and what 16 cores feed: `python perf/bag_loader.py [FOLDER] [--device cuda]`.

Compared, interleaved, on the same draws of one anchor and one target per bag:
  (a) loose JPEG files, each drawn view opened by Pillow and put through torchvision's transforms one by one;
  (b) JPEG decoding of the drawn views alone (simplejpeg from memory), the floor;
  (c) the package's loader: plan, read from shards, decode, cut, masks, stack;
  (d) the loader and `finish_views` on the CPU, which is all that (a) does; on a GPU that part runs on the GPU.
Two kinds of bags: 256 x 256 views as the generator stores them (the paper's), and photographs of about 500 x 375 pixels. FOLDER holds
JPEG photographs; without it they are drawn.

Then, for CDG-MAE-a3 on photographs of shorter side 256 and square views: the share of padding that packing saves, the CPU time of a
sample in a worker process and in the training process behind it, and from both what a GPU gets from 16 cores. With `--device cuda`
also the copies to the GPU and the views finished there.
"""

from __future__ import annotations

import argparse
import gc
import io
import resource
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
from cdgmae.storage.media.images import center_crop, decode_rgb, encode_jpeg, resize_shorter_side
from cdgmae.training.device_copies import StreamCopies
from cdgmae.training.loader import load_micro_batches

BAGS, VIEWS, ROUNDS = 128, 4, 7
CORES = 16
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


def write_bags(folder: Path, reals: list[Image.Image], views: list[Image.Image]) -> Bags:
    """One image shard and one view shard, and the same JPEGs as loose files `{row}.jpg` beside them."""
    tars = folder / "shards.tar", folder / "views.tar"
    for tar, indices, images in ((tars[0], [0], reals), (tars[1], list(range(1, VIEWS + 1)), views)):
        with ImageShardWriter(tar) as writer:
            for number in range(BAGS):
                for index in indices:
                    image = images[(number * 7 + index) % len(images)]
                    row = ImageRow(f"k{number:04d}", index, extension="jpg", width=image.width, height=image.height)
                    writer.add_image(row, encode_jpeg(image, 95 if image.size == (256, 256) else 88))
            writer.commit(settings_digest="benchmark")
    store = Bags([tars[0]], [tars[1]]).usable()
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
        store = write_bags(folder, images, images)
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
        store = write_bags(Path(temporary), tiny, tiny)
        run = RUN.model_copy(update={"image_size": 16, "patch_size": 1, "effective_batch_size": BAGS})
        batches = BagBatches(store, run, seed=0)
        for step in range(20):
            batches.batch(step, range(BAGS))
        values = [seconds(lambda step=step: batches.batch(step, range(BAGS))) / BAGS for step in range(ROUNDS)]
    print(f"without reading and decoding (16 x 16 images, cached): {1e6 * statistics.median(values):.0f} microseconds per sample")


def packed_share(batches: BagBatches, steps: int) -> float:
    """Bytes of the regions over those of batches padded to their largest height and width, in multiples of 32."""
    packed = padded = 0
    for step in range(steps):
        sizes = batches.batch(step, range(batches.batch_size))["region_sizes"].long()
        height, width = (-(-int(side) // 32) * 32 for side in sizes.amax(dim=(0, 1)))
        packed += int(sizes.prod(dim=2).sum())
        padded += height * width * sizes.shape[0] * sizes.shape[1]
    return packed / padded


def cpu_of(who: int) -> float:
    """User and system seconds of this process or of its ended children."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def transport_costs(batches: BagBatches, steps: int, pinned: Tensor) -> tuple[float, float, float]:
    """CPU seconds per sample in a worker process and in this one, and bytes per sample.

    This one copies chunks out of shared memory into the buffer `pinned`, as the thread that pins memory does.
    """
    before = cpu_of(resource.RUSAGE_CHILDREN)
    loaded = load_micro_batches(batches, [range(batches.batch_size)], 0, steps, 1, False)
    started, copied = cpu_of(resource.RUSAGE_SELF), 0
    for _, chunks in loaded:
        for chunk in chunks:
            for tensor in chunk.values():
                pinned[: tensor.nbytes].copy_(tensor.contiguous().view(-1).view(torch.uint8))
                copied += tensor.nbytes
        del chunks, chunk, tensor
    own = cpu_of(resource.RUSAGE_SELF) - started
    del loaded
    gc.collect()  # ends the worker
    worker = cpu_of(resource.RUSAGE_CHILDREN) - before
    samples = steps * batches.batch_size
    return worker / samples, own / samples, copied / samples


def measure_feeding(images: list[Image.Image], device: torch.device | None) -> None:
    """Print what a3 costs, and what 16 cores feed."""
    photographs = [resize_shorter_side(image, 256) for image in images]
    squares = [center_crop(image, 256) for image in photographs]
    run = RUN.model_copy(update={"num_anchors": 3, "anchor_masking_ratio": 0.25})
    with tempfile.TemporaryDirectory() as temporary:
        batches = BagBatches(write_bags(Path(temporary), photographs, squares), run, seed=0, cache_bytes=0)
        share = packed_share(batches, 2)
        print(f"a3, 4 views per sample: {share:.0%} of a padded batch are pixels; they alone are shipped")
        buffer = torch.zeros(max(tensor.nbytes for tensor in batches.batch(0, range(BAGS)).values()) * 2, dtype=torch.uint8)
        rounds = [transport_costs(batches, 10, buffer) for _ in range(3)]
        worker, own, size = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"  a sample takes {1e3 * worker:.2f} ms CPU in a worker and {1e6 * own:.0f} us here, for {size / 1e6:.2f} MB")
        fed = [(CORES - 1) / worker, 1 / own]
        print(
            f"  {CORES} cores, one of them for the training: workers {fed[0]:.0f}, copying {fed[1]:.0f}: {min(fed):.0f} samples/s"
        )
        if device is not None and device.type == "cuda":
            measure_copies(batches, device)


def measure_copies(batches: BagBatches, device: torch.device) -> None:
    """Print the time of a micro-batch's copy to the GPU and of its views there."""
    chunk = {name: tensor.pin_memory() for name, tensor in batches.batch(0, range(batches.batch_size)).items()}
    size = sum(tensor.nbytes for tensor in chunk.values())
    copies = StreamCopies(device)
    batch = copies.finish(copies.start([chunk]))
    actions = {"copy": lambda: copies.finish(copies.start([chunk])), "finish_views": lambda: finish_views(batch, RUN.image_size)}
    for name, action in actions.items():
        times = []
        for _ in range(ROUNDS + 1):
            torch.cuda.synchronize(device)
            started = time.perf_counter()
            action()
            torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
        median = statistics.median(times[1:])
        rate = f", {size / median / 1e9:.1f} GB/s" if name == "copy" else ""
        print(f"  {name} on {torch.cuda.get_device_name(device)}: {1e3 * median:.2f} ms per {len(batch['flips'])} samples{rate}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="Folder of JPEG photographs.")
    parser.add_argument("--device", type=torch.device, default=None, help="A GPU, to time the copies to it.")
    parser.add_argument("--only-feeding", action="store_true", help="Only what 16 cores feed.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = photographs(options.folder, 128)
    if not options.only_feeding:
        measure("256 x 256 views", [image.resize((256, 256), Image.Resampling.BICUBIC) for image in images])
        measure("photographs", images)
        measure_overhead()
    measure_feeding(images, options.device)


if __name__ == "__main__":
    main()
