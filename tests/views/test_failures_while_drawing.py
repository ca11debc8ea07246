"""What fails while views are drawn - disks, devices, numbers, time - ends in a clear error and loses nothing that was made."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from cdgmae.generators.generator_folder import load_generator, write_generator
from cdgmae.generators.pipeline import LatentDiffusionPipeline
from cdgmae.runtime.interrupts import Interrupted, OutOfDeviceMemory
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.image_shards import OK, ImageShard
from cdgmae.views.sampling.generator_sampler import GeneratorRecipe, GeneratorSampler
from cdgmae.views.sampling.sample_shard import sample_shard
from tests.views.sampling_case import Case, assert_no_result, assert_whole, run
from tests.views.test_view_sampling import CPU, rows_of, sampling


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: a write then fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 1500, 4000, 8000, 20000])
def test_a_write_that_fails_anywhere_costs_nothing_but_itself(size: int, case: Case) -> None:
    with file_size_limit(size), pytest.raises(ValueError, match="cannot be written"):
        run(case)
    assert_no_result(case)
    run(case)
    assert_whole(case, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
@pytest.mark.parametrize("what", ["views", "work-00000.tar"])
def test_a_folder_without_permission(what: str, case: Case) -> None:
    (case.folder / what).mkdir(mode=0o555)
    with pytest.raises(ValueError, match="cannot be written"):
        run(case)
    assert_no_result(case)


class FaultyRecipe:
    """A generator whose U-Net is tampered with after loading."""

    views_per_row = 1

    def __init__(self, folder: Path, tamper: Callable[[nn.Module], None], **changes: object) -> None:
        self.inner, self.tamper = GeneratorRecipe(folder, sampling(**changes)), tamper
        self.provenance = self.inner.provenance

    def open(self, device: torch.device) -> GeneratorSampler:
        generator = load_generator(self.inner.folder, device=device)
        self.tamper(generator.pipeline.unet)
        return GeneratorSampler(generator, self.inner.settings, torch.float32, device)


def infinite(unet: nn.Module) -> None:
    unet.conv_out.bias.data.fill_(torch.inf)


def out_of_memory(unet: nn.Module) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    unet.mid_block.resnets[0].register_forward_hook(fail)


def dies_later(unet: nn.Module) -> None:
    calls: list[int] = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) > 9:
            raise OSError("device lost")

    unet.conv_in.register_forward_hook(fail)


def test_latents_that_are_never_finite(case: Case) -> None:
    with pytest.raises(ValueError, match=r"18 of 18 views are bad.*latents are not finite, also from a second seed"):
        run(case, FaultyRecipe(case.generator, infinite))
    assert_no_result(case)


def test_images_that_are_never_finite(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = LatentDiffusionPipeline.images
    monkeypatch.setattr(LatentDiffusionPipeline, "images", lambda pipeline, latents: decode(pipeline, latents) * torch.nan)
    with pytest.raises(ValueError, match=r"18 of 18 views are bad.*image is not finite, also from a second seed"):
        run(case)
    assert_no_result(case)


def test_memory_that_does_not_suffice_names_the_batch_size(case: Case) -> None:
    with pytest.raises(OutOfDeviceMemory, match=r"out of memory.* Lower batch_size of this view source \(now 4\)"):
        run(case, FaultyRecipe(case.generator, out_of_memory))
    assert_no_result(case)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_commands")
def test_too_little_memory_of_a_drawing_process_reaches_the_user(case: Case) -> None:
    recipe = FaultyRecipe(case.generator, out_of_memory)
    with pytest.raises(OutOfDeviceMemory, match=r"Lower batch_size of this view source \(now 4\)"):
        sample_shard(
            sampling(), 0, case.tar, recipe, case.output, case.work, runtime=RuntimeSettings(device="cpu", workers=2, threads=1)
        )
    assert_no_result(case)


def test_a_device_that_dies_later_keeps_what_was_drawn(case: Case) -> None:
    with pytest.raises(OSError, match="device lost"):
        run(case, FaultyRecipe(case.generator, dies_later))
    assert_no_result(case)
    assert run(case)["found_finished"] == 8
    assert_whole(case, 0)


def test_unknown_precisions_and_a_time_limit(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"fp64.*fp32, bf16, fp16"):
        GeneratorRecipe(case.generator, sampling(), "fp64")
    monkeypatch.setenv("CDGMAE_TIME_LIMIT", "0")
    with pytest.raises(Interrupted, match="0 of 18"):
        run(case)
    assert_no_result(case)


def test_views_of_another_precision_are_kept_and_say_so(case: Case) -> None:
    settings = sampling()
    with pytest.raises(OSError, match="device lost"):
        run(case, FaultyRecipe(case.generator, dies_later))
    result = run(case, GeneratorRecipe(case.generator, settings, "bf16"))
    assert result["found_finished"] == 8
    assert [row.precision for row in rows_of(case.output)] == ["fp32"] * 8 + ["bf16"] * 10


def test_other_generators_do_not_share_finished_views(case: Case) -> None:
    case.finish_work()
    generator = load_generator(case.generator, device=CPU)
    generator.pipeline.unet.conv_out.bias.data += 0.1
    case.generator = case.folder / "other"
    result = write_generator(case.generator, generator.pipeline, generator.metadata.encoder, generator.encoder.digest,
                            image_size=16, encoder_image_size=16, provenance={})  # fmt: skip
    assert run(case)["found_finished"] == 0
    assert {row.generator for row in ImageShard(case.output).rows(OK)} == {result.digest}
