"""Watching a generator train: its loss on held-out images and grids of samples, at intervals and at the end.

Everything drawn here has seeds of its own and leaves the training's random state alone.
Shapes: B batch, C channels, h w latent height and width, G images of a grid, V views of each.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor, nn

from cdgmae.generators.pipeline import LatentDiffusionPipeline
from cdgmae.generators.train.denoising_task import GeneratorTask
from cdgmae.generators.train.generator_batches import stratified_timesteps
from cdgmae.models.normalisation import squares
from cdgmae.runtime.seeds import integer_seed
from cdgmae.settings.views import GeneratorTrainingSettings, MonitoringSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.files.atomic import atomic_file, write_text
from cdgmae.storage.tables import write_table

SAMPLES_FOLDER = "samples"
VALIDATION_FILE = "validation.parquet"
VALIDATION_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),
        pa.field("weights", pa.string(), nullable=False),
    ]
)
"""`weights`: `current`, or `averaged` for the moving average that is saved in the end."""

MAX_HELD_OUT = 1024
"""Held-out images that the loss is measured on; the standard error of the mean over so many is a few per cent of their spread."""

GAP = 2


class Monitor:
    """An observer of the training loop that writes `samples/*.png` and `validation/*.json` into a work folder."""

    def __init__(
        self, task: GeneratorTask, pipeline: LatentDiffusionPipeline, images: Bags, settings: MonitoringSettings, work_dir: Path
    ) -> None:
        """Prepare.

        Args:
            task: Gives the loss and the held-out images.
            pipeline: The generator in training: its U-Net and projector are those of the task's model.
            images: The real images, in the order of the cache.
            settings: Intervals, and how grids are sampled.
            work_dir: Where to write; what an interrupted attempt wrote stays.
        """
        self.task, self.pipeline, self.images, self.settings = task, pipeline, images, settings
        self.samples, self.validation = work_dir / SAMPLES_FOLDER, work_dir / "validation"

    def __call__(self, steps_done: int, model: nn.Module) -> None:
        """Look at the current weights if it is time to."""
        if steps_done % self.settings.interval_steps == 0 and steps_done < self.task.settings.num_steps:
            self.look(steps_done, "current", f"step{steps_done:08d}")

    def look(self, step: int, weights: str, name: str) -> None:
        """Measure the held-out loss and draw a grid with the weights that the pipeline has now."""
        model = self.task.model
        was_training = model.training
        model.eval()
        if len(self.task.examples.held_out):
            row = {"step": step, "loss": held_out_loss(self.task), "weights": weights}
            write_text(self.validation / f"{name}.json", json.dumps(row) + "\n")
        if self.settings.num_images:
            grid = self._grid(self._grid_images())
            with atomic_file(self.samples / f"{name}.png") as temporary:
                grid.save(temporary, format="PNG")
        model.train(was_training)

    def _grid_images(self) -> list[int]:
        """Held-out images, or trained ones where none is held out; always the same."""
        examples = self.task.examples
        source = examples.held_out if len(examples.held_out) else examples.trained
        return [int(number) for number in source[: self.settings.num_images]]

    def _grid(self, chosen: list[int]) -> Image.Image:
        """One row per image: the real image, then V samples."""
        settings, cache, device = self.settings, self.task.examples.cache, self.pipeline.unet.device
        embeddings = cache.embeddings([0] * len(chosen), chosen).to(device).repeat_interleave(settings.num_views, 0)
        generator = torch.Generator().manual_seed(integer_seed(self.task.seed, "views/samples", 0))
        noise = torch.randn((len(embeddings), *cache.latent_shape), generator=generator).to(device)
        latents = self.pipeline.sample_latents(embeddings, noise, settings.num_inference_steps, settings.guidance_scale)
        views = self.pipeline.images(latents.float()).nan_to_num().cpu()
        real = squares([self.images.image(number) for number in chosen], views.shape[-1])
        rows = torch.cat([real[:, None], views.unflatten(0, (len(chosen), settings.num_views))], dim=1)
        return _lay_out(rows)


@torch.no_grad()
def held_out_loss(task: GeneratorTask) -> float:
    """Mean loss on held-out images, as they are and with their condition; noise and timesteps are always the same."""
    cache, device = task.examples.cache, next(task.model.parameters()).device
    numbers = [int(number) for number in task.examples.held_out[:MAX_HELD_OUT]]
    generator = torch.Generator().manual_seed(integer_seed(task.seed, "views/validation", 0))
    timesteps = stratified_timesteps(len(numbers), generator)[torch.randperm(len(numbers), generator=generator)]
    total = 0.0
    for first in range(0, len(numbers), task.batch_size):
        chosen = numbers[first : first + task.batch_size]
        batch = {
            "latents": cache.latents([0] * len(chosen), chosen),
            "embeddings": cache.embeddings([0] * len(chosen), chosen),
            "noise": torch.randn((len(chosen), *cache.latent_shape), generator=generator),
            "timesteps": timesteps[first : first + len(chosen)],
            "dropped": torch.zeros(len(chosen), dtype=torch.bool),
        }
        loss = task.loss(task.model, {name: tensor.to(device) for name, tensor in batch.items()}, 0)
        total += float(loss) * len(chosen)
    return total / len(numbers)


def copy_findings(work_dir: Path, folder: Path, settings: GeneratorTrainingSettings) -> None:
    """Put the grids and the table of held-out losses of a finished training into its generator folder."""
    if (work_dir / SAMPLES_FOLDER).is_dir():
        shutil.copytree(work_dir / SAMPLES_FOLDER, folder / SAMPLES_FOLDER)
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((work_dir / "validation").glob("*.json"))]
    if rows:
        rows.sort(key=lambda row: (row["step"], row["weights"] == "averaged"))
        write_table(folder / VALIDATION_FILE, rows, VALIDATION_SCHEMA, settings_digest=settings.digest())


def _lay_out(rows_GV3SS: Tensor) -> Image.Image:
    images, columns, _, side, _ = rows_GV3SS.shape
    sheet = Image.new("RGB", (columns * (side + GAP) - GAP, images * (side + GAP) - GAP), "white")
    pixels = (rows_GV3SS * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
    for row in range(images):
        for column in range(columns):
            sheet.paste(Image.fromarray(pixels[row, column]), (column * (side + GAP), row * (side + GAP)))
    return sheet
