"""Blocks of shards: how they divide, what they are called, and what a rule takes from them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cdgmae.blocks import BLOCK_RULES, Block, Blocks, base_rule
from cdgmae.config import check_config
from tests.workflow.conftest import set_key, tiny_config

PATTERNS = Block("{source}", ("{shard}",))
THREE = Block("my-views_2", ("00016", "00017", "00018"))
LAST = Block("my-views_2", ("00019",))
WILDCARDS = SimpleNamespace(source="far", shard="00007")


def blocks(num_shards: int, shards_per_job: int) -> Blocks:
    config: dict[str, Any] = set_key(tiny_config(), "shards.datasets.demo.num_shards", num_shards)
    return Blocks(check_config(set_key(config, "runtime.shards_per_job", shards_per_job)))


@pytest.mark.parametrize(("num_shards", "shards_per_job", "sizes"), [(5, 2, [2, 2, 1]), (4, 2, [2, 2]), (3, 8, [3]), (1, 2, [1])])
def test_blocks_hold_consecutive_shards_and_every_shard_once(num_shards: int, shards_per_job: int, sizes: list[int]) -> None:
    found = blocks(num_shards, shards_per_job).of_datasets()
    assert [len(block.shards) for block in found] == sizes
    assert [shard for block in found for shard in block.shards] == [f"{number:05d}" for number in range(num_shards)]


def test_one_shard_per_job_is_one_block_of_patterns_whatever_the_number_of_shards_and_sources() -> None:
    assert blocks(500, 1).of_sources() == [PATTERNS]
    assert blocks(500, 1).of_sources("knn") == [PATTERNS]
    assert blocks(500, 1).of_datasets() == [Block("{dataset}", ("{shard}",))]


def test_blocks_of_sources_are_those_of_the_asked_kinds() -> None:
    assert [block.name for block in blocks(2, 2).of_sources()] == ["crops", "s_ldm"]
    assert [str(block) for block in blocks(3, 2).of_sources("s_ldm", "rcg")] == ["s_ldm/00000-00001", "s_ldm/00002"]
    assert blocks(3, 2).of_sources("knn") == []


def test_names_of_rules_logs_and_messages() -> None:
    assert [str(block) for block in (PATTERNS, THREE, LAST)] == ["{source}/{shard}", "my-views_2/00016-00018", "my-views_2/00019"]
    assert [block.rule("sample_views") for block in (PATTERNS, THREE)] == ["sample_views", "sample_views_my-views_2_00016"]
    assert PATTERNS.words == "{wildcards.source}, shard {wildcards.shard}"
    assert [block.words for block in (THREE, LAST)] == ["my-views_2, shards 00016 to 00018", "my-views_2, shard 00019"]
    assert {base_rule(block.rule(rule)) for rule in BLOCK_RULES for block in (PATTERNS, THREE)} == set(BLOCK_RULES)
    assert base_rule("summarise_shards") == "summarise_shards"


def test_what_rules_take_is_made_from_the_names_of_the_block_or_else_of_the_wildcards() -> None:
    def file(source: str, shard: str) -> str:
        return f"{source}/{shard}.tar"

    assert (PATTERNS.of(str.upper)(WILDCARDS), THREE.of(str.upper)(SimpleNamespace())) == ("FAR", "MY-VIEWS_2")
    assert PATTERNS.each(lambda *names: [file(*names)])(WILDCARDS) == ["far/00007.tar"]
    assert LAST.each(lambda *names: [file(*names), "b"])(SimpleNamespace()) == ["my-views_2/00019.tar", "b"]
    assert PATTERNS.flags("--shard", file)(WILDCARDS, []) == "--shard far/00007.tar"
    assert THREE.flags("-s", file)(SimpleNamespace(), []) == " ".join(f"-s my-views_2/{shard}.tar" for shard in THREE.shards)
    assert PATTERNS.files("views/{source}", ".tar") == ["views/{source}/{shard}.tar"]
