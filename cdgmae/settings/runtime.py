"""Section `runtime`: how jobs run here. Nothing in it changes a result's meaning, so no rule takes it as a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from cdgmae.settings.base import Settings

RUNTIME_VARIABLE = "CDGMAE_RUNTIME"
"""Environment variable from which `--runtime` takes its default: the section as JSON."""

RUN_VARIABLE = "CDGMAE_WORKFLOW_RUN"
"""Environment variable with the name of one run of the workflow, from the start of snakemake to its end."""

FAILS_AGAIN = "It would fail again, so it is not tried again in this run: mend it, then start anew."
"""What a job of the workflow ends with when it failed for a reason that does not pass; the controller reads it in the job's log."""


class RuntimeSettings(Settings):
    """Section `runtime`: the one object that says how a job runs here; whatever trains, samples, scores or propagates takes it."""

    removed_keys: ClassVar[Mapping[str, str]] = {
        "shards_per_job": "is gone: one job makes one shard; for fewer and longer jobs give the data set a smaller num_shards; delete the key",
        "reuse_finished": "is gone: to have a result made again, delete it and its folder in work/finished/; delete the key",
        "stage_in": "is called local_copy now; rename the key",
    }

    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="`auto`, `cpu`, `cuda` or `cuda:N`. `auto`: a GPU if there is one, and never the CPU where Slurm gave a GPU.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="Precision of training, sampling and scoring. `auto`: bf16 on a GPU that has it, fp32 elsewhere. fp32: products and "
        "convolutions in full float32, without TF32; beside bf16 and fp16 (autocast) what stays in float32 may use TF32 on a GPU.",
    )
    threads: int = Field(default=4, ge=1, description="CPU threads of a training, sampling, scoring or propagation job.")
    workers: int | None = Field(
        default=None,
        ge=1,
        description="Processes among which a job shares its batches or clips: sampling, scoring, embedding, propagation; left out: one per "
        "GPU that the job sees, or one on the CPU.",
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
        description="Largest number of samples in one forward pass; gradients are accumulated over the parts of a batch, which are equal "
        "where its size allows it. null: as many as fit into the GPU's memory (`cdgmae pretrain flops` says how many), on a CPU all. "
        "Lower it when memory runs out; results stay the same up to rounding and, on a GPU, the draws of dropout.",
    )
    loader_workers: int | None = Field(
        default=None,
        ge=0,
        description="Processes per device that prepare training batches; 0: one background thread. null: 0 on a CPU, else "
        "the cores of the process but one.",
    )
    local_copy: str | None = Field(
        default=None,
        description="Folder on a disk of the compute node, e.g. `$TMPDIR`, to which pre-training copies its shards once before it reads "
        "them; null: they are read where they are. Environment variables are filled in on the node.",
    )
    compile: bool = Field(
        default=False, description="Compile what is trained or sampled with torch.compile: slower to start, faster to step."
    )
    process_group_timeout_minutes: float = Field(
        default=60.0,
        gt=0,
        description="How long the processes of one training wait for each other: at the start, until the slowest has copied its shards "
        "or computed its latents, and at every step. A process that dies is noticed at once by the launcher.",
    )
    trackers: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = Field(
        default=["tensorboard"],
        description="Experiment trackers that mirror the metrics of trainings, offline, into logs/trackers/.",
    )

    @property
    def thread_limit(self) -> int | None:
        """`threads` where it was given; None otherwise: a command that is started by hand takes all cores."""
        return self.threads if "threads" in self.model_fields_set else None

    def environment(self) -> dict[str, str]:
        """The environment variables through which a workflow's machine settings reach its jobs."""
        return {
            RUNTIME_VARIABLE: self.canonical_json(),
            # glibc returns freed tensors to the kernel at once and faults them in again; keeping up to 256 MiB of free heap took
            # a quarter off the CPU time of small training jobs.
            "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
            "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        }


DEFAULT_RUNTIME = RuntimeSettings()
"""What holds where nothing is said."""
