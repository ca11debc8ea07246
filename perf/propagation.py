"""Label propagation against its literal protocol: `python perf/propagation.py`.

On a CPU: a drawn 24-frame clip at 480x880 through `tests/oracles` (padded frames embedded again, every query against the whole context)
and through the package, interleaved, each run in a process of its own; prints both times, their ratio, differing mask pixels, peak
memory and the encoder's share. Then ViT-S/8 alone. With `--device cuda`: frames per second of ViT-S/16 and S/8 beside the time that the encoder's
products alone would take, and what that means for the 1,999 frames of DAVIS-2017 val.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.models.encoders.frozen_encoder import Encoder
from cdgmae.models.normalisation import normalise
from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.engine.clip_workers import frozen_encoder
from cdgmae.propagation.engine.frames import read_frame
from cdgmae.propagation.engine.resizing import resize_bilinear
from cdgmae.propagation.engine.streaming import stream_clip
from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.propagation.measures.masks import davis_palette
from cdgmae.propagation.measures.object_scorer import ObjectScorer
from cdgmae.settings.encoder import parse_encoder

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.oracles.propagation_oracle import literal_clip_labels

ROOT = Path(__file__).parents[1]
SIDES = (480, 880)
DAVIS_FRAMES = 1999
ENCODERS = {16: "random:vit_small_patch16_224", 8: "random:vit_small_patch8_224"}


def draw_clip(folder: Path, num_frames: int) -> LabelledClip:
    """Two textured discs that move over a drifting texture, at 480x854 as DAVIS has them."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)) for _ in range(3)]
    ground, *discs = [np.asarray(image.resize((1100, 700), Image.Resampling.BICUBIC)) for image in coarse]
    rows, columns = np.mgrid[:480, :854]
    frames, labels = [], []
    for t in range(num_frames):
        image, ids = ground[t : t + 480, 2 * t : 2 * t + 854].copy(), np.zeros((480, 854), np.uint8)
        for item, (texture, y, x) in enumerate(
            zip(discs, (200 + t, 300 - 2 * t), (250 + 6 * t, 600 - 4 * t), strict=True), start=1
        ):
            inside = (rows - y) ** 2 + (columns - x) ** 2 < 90**2
            image[inside], ids[inside] = texture[:480, :854][inside], item
        frames.append(folder / f"{t:05d}.jpg")
        labels.append(folder / f"{t:05d}.png")
        Image.fromarray(image).save(frames[-1], quality=90)
        annotation = Image.fromarray(ids)
        annotation.putpalette(davis_palette().tobytes())
        annotation.save(labels[-1])
    return LabelledClip("drawn", tuple(frames), tuple(labels), (480, 854))


def clock_of(device: torch.device) -> Callable[[], float]:
    """Wall-clock seconds on a GPU; on a CPU those of all cores together that this process used, which neighbours disturb less."""
    return time.perf_counter if device.type == "cuda" else time.process_time


class Timed:
    """Counts the seconds spent in an encoder's `tokens`."""

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self.seconds, self._tokens, self._clock = 0.0, encoder.tokens, clock_of(device)
        encoder.tokens = self  # type: ignore[assignment]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens, timed."""
        started = self._clock()
        found = self._tokens(images)
        if self._clock is time.perf_counter:
            torch.cuda.synchronize()
        self.seconds += self._clock() - started
        return found


def run_once(way: str, patch: int, num_frames: int, device: torch.device, precision: str, masks: Path | None) -> dict[str, float]:
    """One clip by one way: seconds, seconds in the encoder, growth of the process and its peak in MB."""
    protocol = DavisProtocol(root="", input_size=SIDES, precision=precision)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        clip = draw_clip(Path(folder), num_frames)
        grid = (SIDES[0] // patch, SIDES[1] // patch)
        encoder = (
            load_encoder(parse_encoder(ENCODERS[patch]), device=device)
            if way == "literal"
            else frozen_encoder(parse_encoder(ENCODERS[patch]), device, protocol)
        )
        if device.type == "cuda":
            stream_clip(clip, ObjectScorer(clip, SIDES, grid, ()), encoder, protocol, device)  # warm up
        clock = clock_of(device)
        timed, before, started = Timed(encoder, device), peak_megabytes(), clock()
        scorer = ObjectScorer(clip, SIDES, grid, range(len(clip.frames)) if masks is not None else ())
        if way == "literal":
            evaluate_literally(clip, scorer, encoder, grid, protocol)
        else:
            stream_clip(clip, scorer, encoder, protocol, device)
        seconds = clock() - started
        if masks is not None:
            images = [np.asarray(Image.open(file)) for file in _files(scorer, Path(folder))]
            np.save(masks, np.stack(images))
    return {"seconds": seconds, "encoder": timed.seconds, "growth": peak_megabytes() - before, "peak": peak_megabytes()}


def _files(scorer: ObjectScorer, folder: Path) -> list[Path]:
    for name, data in scorer.predictions().items():
        (folder / Path(name).name).write_bytes(data)
    return [folder / Path(name).name for name in scorer.predictions()]


def evaluate_literally(
    clip: LabelledClip, scorer: ObjectScorer, encoder: Encoder, grid: tuple[int, int], protocol: DavisProtocol
) -> None:
    """The oracle between the same decoding and the same measures."""
    with torch.inference_mode():
        frames = [normalise((resize_bilinear(read_frame(path).float() / 255, SIDES))[None])[0] for path in clip.frames]
        labels = literal_clip_labels(
            frames, encoder.tokens, scorer.first_labels(), grid,
            top_k=protocol.top_k, queue_length=protocol.queue_length, radius=protocol.radius, temperature=protocol.temperature,
        )  # fmt: skip
        for frame, labels_NC in enumerate(labels):
            scorer.add(frame, labels_NC)


def peak_megabytes() -> float:
    """Peak resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(options: argparse.Namespace, way: str, patch: int, frames: int, masks: Path | None = None) -> dict[str, Any]:
    """`run_once` in a process of its own, so that peak memory is its own too."""
    command = [
        sys.executable, __file__, "--way", way, "--patch", str(patch), "--frames", str(frames), "--threads", str(options.threads),
        *(["--masks", str(masks)] if masks else []),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def compare_on_cpu(options: argparse.Namespace) -> None:
    """Print the ratio against the literal protocol, and ViT-S/8's memory."""
    runs: dict[str, list[dict[str, Any]]] = {"literal": [], "streaming": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for way, found in runs.items():
                found.append(in_process(options, way, 16, options.frames, Path(folder) / f"{way}.npy"))
        masks = [np.load(Path(folder) / f"{way}.npy") for way in runs]
    literal, streaming = ({key: statistics.median(run[key] for run in found) for key in found[0]} for found in runs.values())
    for way, result in (("literal", literal), ("streaming", streaming)):
        print(
            f"ViT-S/16, {options.frames} frames, {way}: {result['seconds']:.1f} CPU seconds, {result['encoder'] / result['seconds']:.0%} of it "
            f"in the encoder, memory grows by {result['growth']:.0f} MB to {result['peak']:.0f} MB"
        )
    differing = int((masks[0] != masks[1]).sum())
    print(f"ratio {literal['seconds'] / streaming['seconds']:.2f}; {differing} of {masks[0].size} mask pixels differ")
    if options.small_patches:
        result = in_process(options, "streaming", 8, options.small_patches)
        print(
            f"ViT-S/8, {options.small_patches} frames: {result['seconds'] / options.small_patches:.1f} CPU seconds per frame, "
            f"{result['encoder'] / result['seconds']:.0%} of it in the encoder, memory grows by {result['growth']:.0f} MB to {result['peak']:.0f} MB"
        )


def encoder_gigaflops(patch: int, width: int = 384, depth: int = 12) -> float:
    """Products of one frame through a ViT-S, in GFLOP (2 per multiply-add)."""
    tokens = 1 + SIDES[0] // patch * SIDES[1] // patch
    return depth * (24 * tokens * width**2 + 4 * tokens**2 * width) / 1e9


def device_teraflops(device: torch.device, precision: str) -> float:
    """What the device reaches on one large product, in TFLOP/s."""
    side, dtype = 8192, torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.randn(side, side, device=device, dtype=dtype)
    left @ left
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(5):
        left @ left
    torch.cuda.synchronize()
    return 5 * 2 * side**3 / (time.perf_counter() - started) / 1e12


def measure_on_cuda(options: argparse.Namespace, device: torch.device) -> None:
    """Print frames per second beside the encoder's floor."""
    for patch in (16, 8):
        for precision in ("fp32", "bf16"):
            runs = [run_once("streaming", patch, options.frames, device, precision, None) for _ in range(options.rounds)]
            seconds, encoder = (statistics.median(run[key] for run in runs) for key in ("seconds", "encoder"))
            rate, floor = options.frames / seconds, device_teraflops(device, precision) * 1e3 / encoder_gigaflops(patch)
            print(
                f"ViT-S/{patch} {precision}: {rate:.0f} frames/s, {encoder / seconds:.0%} of the time in the encoder; its products alone would "
                f"allow {floor:.0f}; DAVIS-2017 val ({DAVIS_FRAMES} frames) {DAVIS_FRAMES / rate:.0f} s in one process"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="more than one adds the threads' waiting to CPU seconds")
    parser.add_argument("--small-patches", type=int, default=6, help="frames for ViT-S/8 on a CPU; 0 leaves it out")
    parser.add_argument("--way", choices=["literal", "streaming"], help="one run only, in this process, as JSON")
    parser.add_argument("--patch", type=int, choices=[8, 16], default=16)
    parser.add_argument("--masks", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if options.way:
        print(json.dumps(run_once(options.way, options.patch, options.frames, device, "fp32", options.masks)))
    elif device.type == "cuda":
        measure_on_cuda(options, device)
    else:
        compare_on_cpu(options)


if __name__ == "__main__":
    main()
