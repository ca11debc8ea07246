"""What can be wrong before or during sampling ends in a clear error, in a recorded row, or is made good: never in a short shard."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cdgmae.generators.generator_folder import FACTS_FILE, load_generator, write_generator
from cdgmae.generators.pipeline import LatentDiffusionPipeline
from cdgmae.runtime.interrupts import Interrupted, OutOfDeviceMemory
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.image_shards import BAD, OK, ImageRow, ImageShard, ImageShardWriter, index_path
from cdgmae.storage.journal import DATA_SUFFIX, LINE_SUFFIX
from cdgmae.storage.verify import verify_file
from cdgmae.views.sampling.generator_sampler import GeneratorRecipe, GeneratorSampler
from cdgmae.views.sampling.sample_shard import sample_shard
from tests.generators.conftest import KEYS, image, write_shard
from tests.views.test_view_sampling import CPU, finished_work, rows_of, sampling

ON_CPU = RuntimeSettings(device="cpu")


@dataclass
class Case:
    """Private copies of everything, to plant a fault in."""

    folder: Path
    tar: Path
    generator: Path
    shard_source: Path

    @property
    def output(self) -> Path:
        return self.folder / "views" / "00000.tar"

    @property
    def work(self) -> Path:
        return self.folder / "work-00000.tar"

    def finish_work(self) -> None:
        """Parts of a run that made all views and could not write them."""
        finished_work(self.tar, self.generator, self.folder)

    def member(self, key: str, data: bytes) -> None:
        """Another shard in which one member holds other bytes."""
        with ImageShardWriter(self.tar) as writer:
            for name in KEYS:
                row = ImageRow(name, 0, class_name="animal", extension="jpg", width=32, height=24)
                writer.add_image(row, data if name == key else image(name))
            writer.commit(settings_digest="test")

    def facts(self, **changes: object) -> None:
        path = self.generator / FACTS_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def weights(self, part: str) -> Path:
        return next((self.generator / part).glob("*.safetensors"))

    def config(self, part: str, name: str, **changes: object) -> None:
        path = self.generator / part / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@dataclass(frozen=True)
class Fault:
    """How to plant a fault and how sampling must end: an error, bad rows for one key, or as if nothing had been."""

    plant: Callable[[Case], object]
    error: str | None = None
    bad_rows: int = 0
    changes: dict[str, object] = field(default_factory=dict)


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path: Path, place: float = 0.9) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 64
    path.write_bytes(data)


def as_pickle(case: Case) -> None:
    path = case.weights("unet")
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


def other_weights(case: Case) -> None:
    path = case.weights("unet")
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)


def foreign_table(case: Case) -> None:
    pq.write_table(pa.table({"name": ["ant"]}), index_path(case.tar))


def all_refused(case: Case) -> None:
    write_shard(case.tar, [], bad=KEYS)


def other_shard_later(case: Case) -> None:
    case.finish_work()
    case.member("ant", image("owl"))


def twice_the_parts(case: Case) -> None:
    case.finish_work()
    for suffix in (LINE_SUFFIX, DATA_SUFFIX):
        shutil.copyfile(case.work / f"000{suffix}", case.work / f"001{suffix}")


def journal(case: Case, edit: Callable[[str], str]) -> None:
    case.finish_work()
    path = case.work / f"000{LINE_SUFFIX}"
    path.write_text(edit(path.read_text()))


def parts_without_images(case: Case) -> None:
    case.finish_work()
    (case.work / f"000{DATA_SUFFIX}").unlink()


def file_in_place_of(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")


SOME = {"max_bad_fraction": 0.5}
FAULTS = {
    # Members of the image shard: recorded, or an error where too many are bad.
    "member of zeros": Fault(lambda c: c.member("cat", bytes(500)), bad_rows=3, changes=SOME),
    "truncated JPEG": Fault(lambda c: c.member("cat", image("cat")[:400]), bad_rows=3, changes=SOME),
    "JPEG that ends in its header": Fault(lambda c: c.member("cat", image("cat")[:20]), bad_rows=3, changes=SOME),
    "GIF": Fault(lambda c: c.member("cat", b"GIF89a" + bytes(50)), bad_rows=3, changes=SOME),
    "empty member": Fault(lambda c: c.member("cat", b""), bad_rows=3, changes=SOME),
    "text": Fault(lambda c: c.member("ant", b"<html>"), r"3 of 18 views are bad.*ant\.1: real image"),
    "no member is an image": Fault(lambda c: write_shard(c.tar, KEYS, corrupt=KEYS), "18 of 18 views are bad"),
    # The image shard as a whole.
    "missing index": Fault(lambda c: index_path(c.tar).unlink(), "is not there; make it with the command of its stage"),
    "missing tar": Fault(lambda c: c.tar.unlink(), "missing although its index is there"),
    "missing shard": Fault(lambda c: shutil.rmtree(c.tar.parent), "is not there; make it with the command of its stage"),
    "truncated tar": Fault(lambda c: cut(c.tar), "truncated"),
    "longer tar": Fault(lambda c: c.tar.write_bytes(c.tar.read_bytes() + bytes(512)), "its index says"),
    "truncated index": Fault(lambda c: cut(index_path(c.tar)), "cannot be read as a table"),
    "damaged index": Fault(lambda c: index_path(c.tar).write_bytes(b"PAR1 no"), "cannot be read as a table"),
    "foreign table": Fault(foreign_table, "is no shard index"),
    "no usable image": Fault(all_refused, "no usable image"),
    # The generator folder.
    "missing generator": Fault(lambda c: shutil.rmtree(c.generator), "is no generator folder"),
    "missing facts": Fault(lambda c: (c.generator / FACTS_FILE).unlink(), "is no generator folder"),
    "damaged facts": Fault(lambda c: (c.generator / FACTS_FILE).write_text("{"), "is damaged"),
    "foreign facts": Fault(lambda c: (c.generator / FACTS_FILE).write_text('{"digest": "1"}'), "is damaged"),
    "wrong digest": Fault(lambda c: c.facts(digest="0123456789ab"), "the generator's weights have digest"),
    "wrong encoder": Fault(lambda c: c.facts(encoder_digest="0123456789ab"), "the conditioning encoder's weights have digest"),
    "missing encoder file": Fault(lambda c: c.facts(encoder="encoder.safetensors"), "encoder.safetensors"),
    "missing U-Net": Fault(lambda c: shutil.rmtree(c.generator / "unet"), "cannot be loaded as a generator"),
    "missing weights": Fault(lambda c: c.weights("unet").unlink(), "cannot be loaded as a generator"),
    "truncated weights": Fault(lambda c: cut(c.weights("unet")), "cannot be loaded as a generator"),
    "flipped bit in the U-Net": Fault(lambda c: flip(c.weights("unet")), "the generator's weights have digest"),
    "flipped bit in the projector": Fault(lambda c: flip(c.weights("projector")), "the generator's weights have digest"),
    "flipped bit in the first stage": Fault(lambda c: flip(c.weights("autoencoder")), "the generator's weights have digest"),
    "wrong checkpoint": Fault(other_weights, "the generator's weights have digest"),
    "weights as a pickle": Fault(as_pickle, "cannot be loaded as a generator"),
    "damaged U-Net config": Fault(lambda c: cut(c.generator / "unet" / "config.json"), "cannot be loaded as a generator"),
    "other widths": Fault(lambda c: c.config("unet", "config.json", block_out_channels=[8, 24]), "cannot be loaded as a generator"),
    "other noise schedule": Fault(lambda c: c.config("scheduler", "scheduler_config.json", beta_end=0.02), "digest"),
    "other target": Fault(lambda c: c.config("scheduler", "scheduler_config.json", prediction_type="epsilon"), "digest"),
    "missing projector": Fault(lambda c: c.weights("projector").unlink(), "cannot be loaded as a generator"),
    "missing first stage": Fault(lambda c: shutil.rmtree(c.generator / "autoencoder"), "cannot be loaded as a generator"),
    "missing noise schedule": Fault(lambda c: shutil.rmtree(c.generator / "scheduler"), "cannot be loaded as a generator"),
    "missing model index": Fault(lambda c: (c.generator / "model_index.json").unlink(), "cannot be loaded as a generator"),
    "damaged model index": Fault(lambda c: cut(c.generator / "model_index.json"), "cannot be loaded as a generator"),
    # Where results and finished views go.
    "a file where results go": Fault(lambda c: file_in_place_of(c.folder / "views"), "cannot be written"),
    "a folder where the shard goes": Fault(lambda c: c.output.mkdir(parents=True), "cannot be written"),
    "a file where finished views go": Fault(lambda c: file_in_place_of(c.work), "cannot be written"),
    # Finished views of an earlier run: made good.
    "journal of noise": Fault(lambda c: journal(c, lambda text: "noise" * 50)),
    "journal of another run": Fault(lambda c: journal(c, lambda text: text.replace("identity", "identify", 1))),
    "journal with unknown facts": Fault(lambda c: journal(c, lambda text: text.replace('"precision"', '"exactness"'))),
    "journal without its first line": Fault(lambda c: journal(c, lambda text: text.split("\n", 2)[2])),
    "parts without images": Fault(parts_without_images),
    "the same parts twice": Fault(twice_the_parts),
    "another shard since": Fault(other_shard_later),
}  # fmt: skip


@pytest.fixture
def case(shard_tar: Path, generator_dir: Path, tmp_path: Path) -> Case:
    tar = tmp_path / "shards" / "00000.tar"
    tar.parent.mkdir()
    for source in (shard_tar, index_path(shard_tar)):
        shutil.copyfile(source, tar.parent / source.name)
    shutil.copytree(generator_dir, tmp_path / "generator")
    return Case(tmp_path, tar, tmp_path / "generator", shard_tar)


def run(case: Case, recipe: object = None, **changes: object) -> dict:
    settings = sampling(**changes)
    recipe = recipe or GeneratorRecipe(case.generator, settings)
    return sample_shard(settings, 0, case.tar, recipe, case.output, case.work, runtime=ON_CPU)


def assert_no_result(case: Case) -> None:
    """Nothing under a final name, and nothing temporary left beside it."""
    assert not case.output.is_file()
    assert not index_path(case.output).exists()
    if case.output.parent.is_dir():
        assert [path for path in case.output.parent.iterdir() if path != case.output] == []


def assert_whole(case: Case, bad_rows: int) -> None:
    rows = rows_of(case.output)
    assert [(row.key, row.view_index) for row in rows] == [(key, k) for key in KEYS for k in (1, 2, 3)]
    assert sum(row.status == BAD for row in rows) == bad_rows
    assert all(row.reason for row in rows if row.status == BAD)
    assert verify_file(case.output).ok
    assert not case.work.exists()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_ends_in_an_error_or_a_recorded_row(name: str, case: Case) -> None:
    fault = FAULTS[name]
    fault.plant(case)
    if fault.error is None:
        run(case, **fault.changes)
        assert_whole(case, fault.bad_rows)
        return
    with pytest.raises(ValueError, match=f"(?s){fault.error}"):
        run(case, **fault.changes)
    assert_no_result(case)


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("what", ["views", "work-00000.tar"])
def test_a_full_disk(what: str, case: Case, small_disk: Path) -> None:
    (case.folder / what).symlink_to(small_disk)
    with pytest.raises(ValueError, match="No space left"):
        run(case)
    assert_no_result(case)
    (case.folder / what).unlink()
    run(case)
    assert_whole(case, 0)


@pytest.mark.parametrize("what", ["views", "work-00000.tar"])
def test_a_disk_that_was_mounted_read_only(what: str, case: Case, small_disk: Path) -> None:
    (case.folder / what).symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(ValueError, match="Read-only file system"):
        run(case)
    assert_no_result(case)


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
    facts = run(case, GeneratorRecipe(case.generator, settings, "bf16"))
    assert facts["found_finished"] == 8
    assert [row.precision for row in rows_of(case.output)] == ["fp32"] * 8 + ["bf16"] * 10


def test_other_generators_do_not_share_finished_views(case: Case) -> None:
    case.finish_work()
    generator = load_generator(case.generator, device=CPU)
    generator.pipeline.unet.conv_out.bias.data += 0.1
    case.generator = case.folder / "other"
    facts = write_generator(case.generator, generator.pipeline, generator.facts.encoder, generator.encoder.digest,
                            image_size=16, encoder_image_size=16, provenance={})  # fmt: skip
    assert run(case)["found_finished"] == 0
    assert {row.generator for row in ImageShard(case.output).rows(OK)} == {facts.digest}
