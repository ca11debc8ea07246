"""What a user gives besides images and clips: a checkpoint, a generator, views of another tool. A plan notices what changes in it."""

from __future__ import annotations

import os

import pytest

from cdgmae.workflow.messages.reasons import short_reason
from tests.workflow.conftest import Workplace
from tests.workflow.finished_tree import make_tree, photos_config
from tests.workflow.planning import planned

VIEWS = {f"gather_views given 0000{number}" for number in range(2)}
BOUGHT = {f"make_views bought 0000{number}" for number in range(2)}
MINE = {f"propagate_labels mine {name}" for name in ("davis", "vip", "jhmdb")}
GIVEN = {"mine.pth": MINE, "bought/unet/weights": BOUGHT, "given/cats/1/a.jpg": VIEWS}
"""A file of each kind, and the jobs that read it."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder, config = tmp_path_factory.mktemp("given"), photos_config()
    for file in GIVEN:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"former")
    config["views"]["generators"]["bought"] = {"path": "bought"}
    config["views"]["sources"] |= {
        "given": {"kind": "folder", "dataset": "photos", "root": "given", "num_views": 2},
        "bought": {"kind": "s_ldm", "dataset": "photos", "generator": "bought", "sampling": {"num_views": 2}},
    }
    config["propagation"]["encoders"]["mine"] = {"timm": "vit_small_patch16_224", "checkpoint": "mine.pth"}
    return make_tree(folder, config)


@pytest.mark.parametrize("file", GIVEN)
def test_a_file_that_is_older_than_the_one_before_is_noticed_by_its_readers(place: Workplace, file: str) -> None:
    path = place.folder / file
    before = path.stat()
    path.write_bytes(b"another")
    os.utime(path, (1, 1))  # as `cp -p` or an archive leaves it
    jobs = planned(place)
    path.write_bytes(b"former")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert {job for job in jobs if job.split()[0] in ("make_views", "gather_views", "propagate_labels")} == GIVEN[file]
    assert planned(place) == set()


def test_views_that_came_or_went_are_noticed(place: Workplace) -> None:
    new = place.folder / "given/cats/1/b.jpg"
    new.write_bytes(b"view")
    assert planned(place) >= VIEWS
    new.unlink()
    assert planned(place) == set()


def test_the_reason_names_the_path_that_changed() -> None:
    reason = (
        "Params have changed since last execution: Union of exclusive params before and now across all output: "
        "before: 'old.pth 1f2e, mine.pth 1f2e' now: 'old.pth 1f2e, mine.pth 3c4d' "
    )
    params = {"given": "old.pth 1f2e, mine.pth 3c4d"}
    assert short_reason(reason, params) == "Changed: mine.pth was replaced, or files in it were"
