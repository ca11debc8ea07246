"""Private copies of a shard and a generator for the tests of what goes wrong in sampling, and how a run of them must end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cdgmae.generators.generator_folder import METADATA_FILE
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.image_shards import BAD, ImageRow, ImageShardWriter, index_path
from cdgmae.storage.verify import verify_file
from cdgmae.views.sampling.generator_sampler import GeneratorRecipe
from cdgmae.views.sampling.sample_shard import sample_shard
from tests.generators.conftest import KEYS, image
from tests.views.test_view_sampling import finished_work, rows_of, sampling

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

    def metadata(self, **changes: object) -> None:
        path = self.generator / METADATA_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def weights(self, part: str) -> Path:
        return next((self.generator / part).glob("*.safetensors"))

    def config(self, part: str, name: str, **changes: object) -> None:
        path = self.generator / part / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


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
