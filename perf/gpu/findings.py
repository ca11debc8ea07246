"""What a check reports: findings with a goal or a bound, the registry of checks, and honest timing on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import Literal

import torch
from torch import Tensor

CORRECT, RATE = "correct", "rate"
FAILED = "FAILED"
"""What a check measured that raised."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One measured number, or one fact without a number.

    Attributes:
        what: What was measured, in words.
        measured: The number, or text.
        unit: Unit of all numbers of the row.
        goal: What is aimed at on an H100; None for a number that only informs.
        floor: What arithmetic allows at best; None where nobody counted it.
        better: Whether a number meets its goal by being lower, higher or equal. A correctness bound is a goal with `lower`.
        detail: Kernels, shapes and what else explains the number.
    """

    what: str
    measured: float | str
    unit: str = ""
    goal: float | None = None
    floor: float | None = None
    better: Literal["lower", "higher", "equal"] = "lower"
    detail: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none. A check that failed has met nothing."""
        if self.measured == FAILED:
            return False
        if self.goal is None or isinstance(self.measured, str):
            return None
        if self.better == "equal":
            return self.measured == self.goal
        return self.measured <= self.goal if self.better == "lower" else self.measured >= self.goal


@dataclass(slots=True)
class Bench:
    """What every check gets: the device, the size, and drawn inputs.

    Attributes:
        device: `cuda`, or `cpu` to try the checks themselves.
        tiny: Toy sizes that one CPU core finishes in a minute; the numbers then mean nothing.
        work: Scratch folder.
        bags: Folder with `shards/` and `views/` of many drawn bags, of four views each.
        few_bags: The same with few bags.
        found: All findings so far, in order.
    """

    device: str
    tiny: bool
    work: Path
    bags: Path
    few_bags: Path
    found: list[Finding] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    def report(self, finding: Finding) -> None:
        """Keep a finding and print it at once: a run that is cut off has said what it found."""
        self.found.append(finding)
        number = finding.measured if isinstance(finding.measured, str) else f"{finding.measured:.4g}"
        goal = "" if finding.goal is None else f" (goal {finding.goal:g})"
        detail = f"; {finding.detail}" if finding.detail else ""
        print("   " + f"{finding.what}: {number} {finding.unit}".strip() + goal + detail, flush=True)

    def inform(self, what: str, measured: float | str, unit: str = "", detail: str = "") -> None:
        """Report what has no goal."""
        self.report(Finding(what, measured, unit, detail=detail))

    def within(self, what: str, measured: float, bound: float, unit: str = "", detail: str = "") -> None:
        """Report a number that must not be larger than its bound."""
        self.report(Finding(what, measured, unit, goal=bound, detail=detail))

    def wait(self) -> None:
        """Wait until the device has done all that was asked of it."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, function: Callable[[], object], repeats: int = 10, warm: int = 3) -> float:
        """Median wall seconds of a call, the device's work included."""
        for _ in range(1 if self.tiny else warm):
            function()
        found = []
        for _ in range(2 if self.tiny else repeats):
            self.wait()
            started = time.perf_counter()
            function()
            self.wait()
            found.append(time.perf_counter() - started)
        return statistics.median(found)

    def kernels(self, function: Callable[[], object], most: int = 3) -> str:
        """The kernels that take the most time of a call, with their milliseconds; empty on a CPU."""
        if not self.on_gpu:
            return ""
        try:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                function()
                self.wait()
        except (AssertionError, RuntimeError) as error:  # a container may forbid it; the rates are worth more
            return f"no profile: {error}"
        rows = sorted(profile.key_averages(), key=lambda row: -row.self_device_time_total)[:most]
        return "; ".join(f"{row.key[:70]} {row.self_device_time_total / 1e3:.2f} ms" for row in rows)


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what it answers, how long it may take, and whether it is about correctness or speed."""

    name: str
    kind: str
    seconds: float
    run: Callable[[Bench], None]


CHECKS: dict[str, Check] = {}
"""All checks by name, in the order in which they run."""


def check(kind: str, seconds: float) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Register a check.

    Args:
        kind: `correct` or `rate`.
        seconds: What it takes on an H100; it is left out where so much time is no longer there.
    """

    def add(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        CHECKS[function.__name__] = Check(function.__name__, kind, seconds, function)
        return function

    return add


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of what was wanted, in float64."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


def as_table(found: list[Finding]) -> str:
    """All findings as a Markdown table: what, measured, goal, floor, met."""
    lines = ["| what | measured | goal | floor | met |", "|---|---|---|---|---|"]
    for finding in found:
        number = finding.measured if isinstance(finding.measured, str) else f"{finding.measured:.4g}"
        goal, floor = ("" if bound is None else f"{bound:.4g} {finding.unit}".strip() for bound in (finding.goal, finding.floor))
        met = {None: "", True: "yes", False: "**no**"}[finding.met]
        lines.append(f"| {finding.what} | {f'{number} {finding.unit}'.strip()} | {goal} | {floor} | {met} |")
    details = [f"* {finding.what}:\n\n{indent(finding.detail.strip(), '      ')}\n" for finding in found if finding.detail]
    return "\n".join(lines) + "\n" + ("\n" + "\n".join(details) if details else "")
