"""Section `runtime`: how jobs run here. Nothing in it changes a result's meaning, so no rule takes it as a parameter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cdgmae.settings.base import Settings

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")
"""Experiment trackers that a training can mirror its metrics to."""


class RuntimeSettings(Settings):
    """Section `runtime`."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="`auto`: a GPU if there is one.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="Autocast precision of training and sampling.")
    threads: int = Field(default=4, ge=1, description="CPU threads of a training, sampling, scoring or propagation job.")
    workers: int | None = Field(
        default=None, ge=1, description="Processes of a sampling job; left out: one per GPU that the job sees, or one on the CPU."
    )
    log_interval_seconds: float = Field(default=30.0, gt=0, description="One progress line per this many seconds in log files.")
    checkpoint_interval_seconds: float = Field(default=900.0, ge=0, description="Training state is saved at least this often.")
    checkpoint_interval_steps: int | None = Field(
        default=None, ge=1, description="Training state is also saved every so many optimiser steps; null: by time alone."
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="Saved training states that are kept, the newest ones.")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Largest number of samples in one forward pass; gradients are accumulated over the parts of a batch. null: a "
        "device takes its whole share of the batch at once. Lower it when memory runs out; results stay the same.",
    )
    loader_workers: int | None = Field(
        default=None,
        ge=0,
        description="Processes per device that prepare training batches; 0: one background thread. null: 0 on a CPU, else the cores.",
    )
    stage_in: str | None = Field(
        default=None,
        description="Folder on a disk of the compute node, e.g. `$TMPDIR`, to which pre-training copies its shards once before it reads "
        "them; null: they are read where they are. Environment variables are filled in on the node.",
    )
    compile: bool = Field(
        default=False, description="Compile what is trained or sampled with torch.compile: slower to start, faster to step."
    )
    reuse_finished: bool = Field(
        default=True,
        description="Whether a job whose outputs were deleted takes the finished ones that are kept in work/finished/, if they were made "
        "from the same; false: it makes them anew.",
    )
    trackers: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = Field(
        default=["tensorboard"],
        description="Experiment trackers that mirror the metrics of trainings, offline, into logs/trackers/.",
    )

    def environment(self) -> dict[str, str]:
        """The environment variables from which the command line takes its defaults."""
        return {
            "CDGMAE_DEVICE": self.device,
            "CDGMAE_PRECISION": self.precision,
            "CDGMAE_WORKERS": str(self.workers or ""),
            "CDGMAE_LOG_INTERVAL": str(self.log_interval_seconds),
            "CDGMAE_CHECKPOINT_INTERVAL": str(self.checkpoint_interval_seconds),
            "CDGMAE_CHECKPOINT_STEPS": str(self.checkpoint_interval_steps or ""),
            "CDGMAE_KEEP_CHECKPOINTS": str(self.keep_checkpoints),
            "CDGMAE_MICRO_BATCH_SIZE": str(self.micro_batch_size or ""),
            "CDGMAE_LOADER_WORKERS": "" if self.loader_workers is None else str(self.loader_workers),
            "CDGMAE_STAGE_IN": self.stage_in or "",
            "CDGMAE_COMPILE": str(int(self.compile)),
            "CDGMAE_REUSE_FINISHED": str(int(self.reuse_finished)),
            "CDGMAE_TRACKERS": ",".join(self.trackers),
            # glibc returns freed tensors to the kernel at once and faults them in again; keeping up to 256 MiB of free heap took
            # a quarter off the CPU time of small training jobs.
            "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
            "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        }
