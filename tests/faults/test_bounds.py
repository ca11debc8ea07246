"""Small files that stand for much, and files that carry code: refused or a row with a reason, in a gigabyte at most, and nothing is executed."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cdgmae.generators.imported.original_checkpoint import read_state
from cdgmae.propagation.tracks.tap_vid_pickle import read_pickled_videos
from cdgmae.settings.reading.plain_values import read_json, read_yaml_text
from cdgmae.storage.image_shards import ImageShard
from tests.faults.bounded import MEMORY, feed
from tests.faults.forked import ForkedCommand
from tests.faults.ledger import Count, recorded
from tests.faults.test_hostile_files import list_tar, read_encoder, saved
from tests.shards.drawn_images import image_bytes, write_tar

EXECUTED = "executed-by-a-file"


def png(size: tuple[int, int], mode: str = "1", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG", **options)
    return buffer.getvalue()


def with_text(size: int) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * size, zip=True)
    return png((8, 8), "RGB", pnginfo=text)


def claiming(data: bytes, width: int, height: int) -> bytes:
    """A PNG whose header claims another size, with the checksum of that."""
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


BOMBS = {
    "12,000 x 12,000": png((12_000, 12_000)), "1 x 30,000": png((1, 30_000)), "30,000 x 1": png((30_000, 1)), "1 x 300": png((1, 300)),
    "64 MB of text": with_text(64 << 20), "claims 2^31 x 1": claiming(png((8, 8)), 2**31 - 1, 1),
    "claims 60,000 x 60,000": claiming(png((8, 8)), 60_000, 60_000), "claims 0 x 0": claiming(png((8, 8)), 0, 0),
    "GIF of 65,535 x 65,535": b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\x00\x02\x02L\x01\x00;",
    "PPM of 10^9": b"P6 1000000000 1000000000 255\n" + bytes(99),
    "BMP": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 10**9, 10**9, 1, 24, 0, 0, 0, 0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("resize", ["none", "shorter_side", "center_crop"])
def test_images_that_stand_for_much(resize: str, tmp_path: Path) -> None:
    root, output = tmp_path / "root", tmp_path / "packed"
    root.mkdir()
    for number, data in enumerate(BOMBS.values()):
        (root / f"{number}.png").write_bytes(data)
    (root / "good.jpg").write_bytes(image_bytes(0))
    os.mkfifo(root / "pipe.jpg")
    (root / "endless.jpg").symlink_to("/dev/zero")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    with (root / "sparse.jpg").open("wb") as file:
        file.truncate(200 << 30)
    injected = len(BOMBS) + 4
    words = [
        "shards", "write", "--root", root, "--output", output, "--settings", f"resize={resize}", "--settings",
        "max_bad_fraction=0.99", "--threads", "1",
    ]  # fmt: skip
    command = ForkedCommand(words, tmp_path / "log", limit_memory)
    code = command.end_with()
    rows = list(ImageShard(output / "00000.tar").rows()) if code == 0 else []
    told = sum(row.reason is not None or row.status == "ok" for row in rows if row.source_path != "good.jpg")
    listed = (output / "left_out.csv").read_text().count("\n") - 1 if (output / "left_out.csv").is_file() else 0
    good = [row.status for row in rows if row.source_path == "good.jpg"]
    count = Count(injected, min(told + listed, injected), lost=int(good != ["ok"]), traceback=int(code != 0))
    assert recorded("shards write", f"image bombs, resize {resize}", count).all_survived, (command.log.read_text(), rows)


def limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


def chained(kind: bytes, count: int) -> bytes:
    """A tar whose one member has many extended headers, each of the next."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 11
    record = header.tobuf() + b"10 path=a\n\n".ljust(512, b"\0")
    return record * count + write_member("a.jpg") + bytes(1024)


def write_member(name: str) -> bytes:
    return tarfile.TarInfo(name).tobuf()


def huge(size_field: bytes) -> bytes:
    block = bytearray(tarfile.TarInfo("a.jpg").tobuf())
    block[124:136] = size_field.ljust(12, b"\0")[:12]
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:]))
    return bytes(block) + bytes(1024)


def test_tars_that_stand_for_much(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    whole = write_tar(tmp_path / "whole.tar", {"a.jpg": image_bytes(0)}).read_bytes()
    pax = tarfile.TarInfo("p")
    pax.type, pax.size = tarfile.XHDTYPE, 40 << 30
    inputs = [
        chained(tarfile.XHDTYPE, 20_000), chained(tarfile.GNUTYPE_LONGNAME, 20_000), chained(tarfile.XGLTYPE, 20_000),
        pax.tobuf(tarfile.GNU_FORMAT) + bytes(4096),
        huge(b"77777777777"), huge(b"\x80" + b"\xff" * 11), huge(b"\xff" * 12), huge(b"-1"), huge(b"\x80" + bytes(3) + b"\x7f" * 8),
        whole[:512] * 3000, whole * 300,
        b"20 size=" + b"9" * 40, bytes(100 << 20),
    ]  # fmt: skip

    def read(content: bytes) -> object:
        (tmp_path / "here/a.tar").write_bytes(content)
        return list_tar("webdataset")(tmp_path / "here/a.tar")

    count, problems = feed(read, inputs, tmp_path / "log")
    assert recorded("shards write", "tar bombs", count).all_survived, problems


def test_texts_that_stand_for_much(tmp_path: Path) -> None:
    aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
    )
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}], y{n}: 1}}\n" for n in range(1, 30)
    )
    yamls = [
        aliases,
        merges,
        "[" * 100_000,
        "a: &a [*a, *a]",
        "- " * 50_000 + "x",
        "{? " * 20_000,
        "a" * 10_000_000,
        "!!int " + "9" * 100_000,
    ]
    jsons = ["[" * 1_000_000, '{"a":' * 500_000, "9" * 1_000_000, '{"a": [' + "1," * 200_000 + "1]}"]

    def read(content: bytes) -> object:
        text = content.decode()
        return read_json(text[1:], "a.json") if text[0] == "J" else read_yaml_text(text[1:], "a.yaml")

    count, problems = feed(
        read, [f"Y{text}".encode() for text in yamls] + [f"J{text}".encode() for text in jsons], tmp_path / "log"
    )
    assert recorded("config check", "YAML and JSON bombs", count).all_survived, problems


class Payload:
    """Unpickled, it would leave a file; the name of the callable says how."""

    def __init__(self, function: Callable[..., object], argument: object) -> None:
        self.call = function, argument

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object]]:
        return self.call[0], (self.call[1],)


def test_files_that_carry_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = f"open({EXECUTED!r}, 'w').close()"
    payloads = [Payload(os.system, f"touch {EXECUTED}"), Payload(eval, code), Payload(exec, code), Payload(os.mkdir, EXECUTED)]
    contents: list[bytes] = []
    for payload in payloads:
        for content in (
            payload,
            {"model": payload},
            {"model": {"norm.weight": payload}},
            {"epoch": 1, "args": [payload]},
            np.array([payload], object),
        ):
            contents += [
                saved(content),
                saved(content, _use_new_zipfile_serialization=False),
                *(pickle.dumps(content, protocol) for protocol in (0, 2, 4)),
            ]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(payloads[0]))
        file.writestr("archive/code/evil.py", code)
    contents.append(archive.getvalue())
    readers = (
        ("encoder.pth", read_encoder),
        ("encoder.bin", read_encoder),
        ("generator.ckpt", read_state),
        ("davis.pkl", read_pickled_videos),
    )
    count, problems = Count(), []
    for name, reader in readers:

        def read(content: bytes, name: str = name, reader: Callable[[Path], object] = reader) -> object:
            (tmp_path / name).write_bytes(content)
            return reader(tmp_path / name)

        found, wrong = feed(read, contents, tmp_path / "log")
        count.injected, count.survived, count.traceback = (
            count.injected + found.injected, count.survived + found.survived, count.traceback + found.traceback,
        )  # fmt: skip
        problems += [f"{name}: {problem}" for problem in wrong]
    count.silent = len(list(tmp_path.rglob(f"{EXECUTED}*")))
    assert recorded("all readers", "code in files", count).all_survived, problems
