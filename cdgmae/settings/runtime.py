"""Section `runtime`: how jobs run here. Nothing in it changes a result's meaning, so no rule takes it as a parameter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cdgmae.settings.base import Settings


class RuntimeSettings(Settings):
    """Section `runtime`."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="`auto`: a GPU if there is one.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="Autocast precision of training and sampling.")
    threads: int = Field(default=4, ge=1, description="CPU threads of a training, sampling, scoring or propagation job.")
    processes: int | None = Field(
        default=None, ge=1, description="Processes of a sampling job; left out: one per GPU that the job sees, or one on the CPU."
    )
    compile: bool = Field(
        default=False,
        description="Compile the generator's U-Net with torch.compile: minutes at the start of a job, faster steps after.",
    )
    log_interval_seconds: float = Field(default=30.0, gt=0, description="One progress line per this many seconds in log files.")
    checkpoint_interval_seconds: float = Field(default=900.0, ge=0, description="Training state is saved at least this often.")

    def environment(self) -> dict[str, str]:
        """The environment variables from which the command line takes its defaults."""
        processes = {} if self.processes is None else {"CDGMAE_PROCESSES": str(self.processes)}
        return {
            **processes,
            "CDGMAE_DEVICE": self.device,
            "CDGMAE_PRECISION": self.precision,
            "CDGMAE_COMPILE": str(int(self.compile)),
            "CDGMAE_LOG_INTERVAL": str(self.log_interval_seconds),
            "CDGMAE_CHECKPOINT_INTERVAL": str(self.checkpoint_interval_seconds),
            # glibc returns freed tensors to the kernel at once and faults them in again; keeping up to 256 MiB of free heap took
            # a quarter off the CPU time of small training jobs.
            "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
            "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        }
