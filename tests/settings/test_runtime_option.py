"""`--runtime`: one object from config.yaml, the environment or the command line to what trains, samples, scores and propagates."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from cdgmae.cli import app
from cdgmae.commands.options import parse_runtime, read_values
from cdgmae.config import check_config
from cdgmae.settings.runtime import RUNTIME_VARIABLE, RuntimeSettings
from tests.settings.demo_config import changed

HAND_OPTIONS = {"device", "precision", "threads"}


def commands(group: typer.core.TyperGroup, name: str = "") -> dict[str, typer.core.TyperCommand]:
    found: dict[str, typer.core.TyperCommand] = {}
    for word, command in group.commands.items():
        full = f"{name} {word}".strip()
        found |= commands(command, full) if hasattr(command, "commands") else {full: command}
    return found


def test_what_the_configuration_says_is_what_a_job_gets_from_its_environment() -> None:
    config = check_config(changed("runtime", {"local_copy": "$TMPDIR/shards", "workers": 3, "compile": True, "trackers": []}))
    environment = config.runtime.environment()
    assert parse_runtime([environment[RUNTIME_VARIABLE]]) == config.runtime
    assert parse_runtime([environment[RUNTIME_VARIABLE]]).thread_limit == 4
    assert {name for name in environment if name.startswith("MALLOC_")} == {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}


def test_hand_options_override_and_threads_are_all_cores_unless_given(tmp_path: Path) -> None:
    assert parse_runtime(None) == RuntimeSettings()
    assert parse_runtime(None).thread_limit is None
    file = tmp_path / "here.yaml"
    file.write_text("precision: bf16\nthreads: 2\n")
    assert parse_runtime([str(file)], device="cpu", threads=3) == RuntimeSettings(device="cpu", precision="bf16", threads=3)


def test_later_texts_override_earlier_ones_and_all_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNTIME_VARIABLE, '{"compile": true, "workers": 2, "threads": 8}')
    texts = ['{"workers": 3, "threads": 1}', "threads=4", "trackers=[]"]
    assert parse_runtime(texts) == RuntimeSettings(compile=True, workers=3, threads=4, trackers=[])


def test_key_and_value_are_read_as_json_then_yaml_and_sides_as_two_numbers() -> None:
    texts = ["input_size=480x880", "top_k=3", "temperature=7e-1", "precision=bf16", "names=[a, b]", "ratio=", "text=a=b"]
    assert read_values(texts, "--settings")[0] == {
        "input_size": [480, 880], "top_k": 3, "temperature": 0.7, "precision": "bf16", "names": ["a", "b"], "ratio": None, "text": "a=b",
    }  # fmt: skip
    for text in ("top_k", "=3"):
        with pytest.raises(ValueError, match=f"--settings {text}: .* give KEY=VALUE, JSON text or an existing"):
            read_values([text], "--settings")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"micro_batch": 3}', r"--runtime: micro_batch: unknown key; allowed: .*did you mean 'micro_batch_size'"),
        ('{"workers": 0}', r"--runtime: workers = 0: input should be greater than or equal to 1"),
        ('{"trackers": ["tensorbored"]}', r"--runtime: trackers.0 = 'tensorbored': input should be 'tensorboard', 'wandb'"),
        ("{compile: yes", "--runtime is not valid JSON"),
        ("absent.yaml", "--runtime absent.yaml: No such file"),
    ],
)
def test_wrong_machine_settings_are_refused_as_in_the_configuration(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_runtime([text])


def test_no_command_has_an_option_of_its_own_for_a_machine_setting() -> None:
    """So a new machine setting touches `RuntimeSettings` alone."""
    for name, command in commands(get_command(app)).items():
        options = {parameter.name for parameter in command.params}
        doubled = options & (set(RuntimeSettings.model_fields) - HAND_OPTIONS)
        assert not doubled, f"{name}: {doubled}"


def test_every_stage_that_computes_takes_the_same_object() -> None:
    from cdgmae.consistency.scoring.score_shard import score_shard
    from cdgmae.generators.train.generator_training import train_generator
    from cdgmae.pretrain.run import run_pretrain
    from cdgmae.propagation.evaluation import run_propagation
    from cdgmae.training.loop import train
    from cdgmae.views.sampling.sample_shard import sample_shard

    for function in (train, run_pretrain, train_generator, sample_shard, score_shard, run_propagation):
        assert inspect.signature(function).parameters["runtime"].annotation == "RuntimeSettings", function
