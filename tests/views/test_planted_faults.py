"""What can be wrong before sampling ends in a clear error, in a recorded row, or is made good: never in a short shard."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from cdgmae.generators.generator_folder import METADATA_FILE
from cdgmae.storage.image_shards import index_path
from cdgmae.storage.journal import DATA_SUFFIX, LINE_SUFFIX
from tests.generators.conftest import KEYS, image, write_shard
from tests.views.sampling_case import Case, assert_no_result, assert_whole, run


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
    "missing index": Fault(lambda c: index_path(c.tar).unlink(), "is not there; check the path, or make it with"),
    "missing tar": Fault(lambda c: c.tar.unlink(), "missing although its index is there"),
    "missing shard": Fault(lambda c: shutil.rmtree(c.tar.parent), "is not there; check the path, or make it with"),
    "truncated tar": Fault(lambda c: cut(c.tar), "truncated"),
    "longer tar": Fault(lambda c: c.tar.write_bytes(c.tar.read_bytes() + bytes(512)), "its index says"),
    "truncated index": Fault(lambda c: cut(index_path(c.tar)), "cannot be read as a table"),
    "damaged index": Fault(lambda c: index_path(c.tar).write_bytes(b"PAR1 no"), "cannot be read as a table"),
    "foreign table": Fault(foreign_table, "is no shard index"),
    "no usable image": Fault(all_refused, "no usable image"),
    # The generator folder.
    "missing generator": Fault(lambda c: shutil.rmtree(c.generator), "is no generator folder"),
    "missing result": Fault(lambda c: (c.generator / METADATA_FILE).unlink(), "is no generator folder"),
    "damaged result": Fault(lambda c: (c.generator / METADATA_FILE).write_text("{"), "is damaged"),
    "foreign result": Fault(lambda c: (c.generator / METADATA_FILE).write_text('{"digest": "1"}'), "is damaged"),
    "wrong digest": Fault(lambda c: c.metadata(digest="0123456789ab"), "the generator's weights have digest"),
    "wrong encoder": Fault(lambda c: c.metadata(encoder_digest="0123456789ab"), "the conditioning encoder's weights have digest"),
    "missing encoder file": Fault(lambda c: c.metadata(encoder="encoder.safetensors"), "encoder.safetensors"),
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
    "journal with unknown result": Fault(lambda c: journal(c, lambda text: text.replace('"precision"', '"exactness"'))),
    "journal without its first line": Fault(lambda c: journal(c, lambda text: text.split("\n", 2)[2])),
    "parts without images": Fault(parts_without_images),
    "the same parts twice": Fault(twice_the_parts),
    "another shard since": Fault(other_shard_later),
}  # fmt: skip


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
