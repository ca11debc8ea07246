"""The command line: `cdgmae STAGE VERB`, the same code path that the workflow's rules call."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from cdgmae import __version__
from cdgmae.cluster.ranks import join_ranks
from cdgmae.commands import (
    checks,
    cluster,
    config,
    consistency,
    demo,
    fetch,
    pretrain,
    propagation,
    report,
    shards,
    status,
    views,
)
from cdgmae.commands.files import export
from cdgmae.commands.files.provenance import provenance
from cdgmae.commands.files.verify import verify
from cdgmae.commands.options import AS_JSON, Command, print_result
from cdgmae.runtime.interrupts import EXIT_INTERRUPTED, EXIT_OUT_OF_MEMORY, Interrupted, OutOfDeviceMemory, leave_ranks, may_pass
from cdgmae.runtime.logs import log_job_header, start_logging
from cdgmae.settings.reading.messages import folded
from cdgmae.settings.runtime import FAILS_AGAIN, RUN_VARIABLE
from cdgmae.storage.files.command_line import note_command_line
from cdgmae.storage.files.publishing import AlreadyMade
from cdgmae.storage.hub import keep_slurm_jobs_offline
from cdgmae.terminal import open_console

GROUPS = {
    "shards": shards.app,
    "views": views.app,
    "consistency": consistency.app,
    "pretrain": pretrain.app,
    "propagation": propagation.app,
    "report": report.app,
    "export": export.app,
    "config": config.app,
    "demo": demo.app,
    "cluster": cluster.app,
}
SINGLE_COMMANDS: dict[str, Callable[..., None]] = {
    "init": demo.init,
    "status": status.status,
    "verify": verify,
    "provenance": provenance,
    "doctor": checks.doctor,
    "fetch": fetch.fetch,
}
COMMANDS = (*GROUPS, *SINGLE_COMMANDS)


class StageOrder(TyperGroup):
    """Lists the commands as one meets them: the stages in their order, then what serves all of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All command names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note the command line, with which results are recorded, and take `--json` wherever it stands before a `--`."""
        end = args.index("--") if "--" in args else len(args)
        if "--json" in args[:end]:
            args = ["--json", *(word for word in args[:end] if word != "--json"), *args[end:]]
        note_command_line([word for word in args if word != "--json"])
        ctx.call_on_close(partial(note_command_line, []))  # what a program does afterwards is no part of the command
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="cdgmae",
    cls=StageOrder,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="CDG-MAE: dense correspondences from still images.\n\n"
    "Stages, in order: shards -> views -> consistency -> pretrain -> propagation -> report. Each stage reads the files of the ones before it and can "
    "be run alone; `snakemake --cores 2` runs them all.\n\n"
    f"Exit codes: 0 done, 1 bad input or failure (the message says what to do), {EXIT_INTERRUPTED} stopped early with its state saved: "
    f"run the same command again and it continues, {EXIT_OUT_OF_MEMORY} the GPU's memory does not suffice (the message names the setting).",
)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)
for _name, _command in SINGLE_COMMANDS.items():
    app.command(_name)(_command)


def _flow(text: str) -> str:
    """A help text whose paragraphs flow to the terminal's width, and whose brackets are no markup."""
    return "\n\n".join(" ".join(escape(paragraph).split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


for _typer in (app, *GROUPS.values()):
    for _info in _typer.registered_commands:
        _info.cls = Command if _info.cls is TyperCommand else _info.cls
        _info.help = _flow(_info.help or (_info.callback.__doc__ if _info.callback else "") or "")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"cdgmae {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the result as one JSON object on the last line; may stand after any command too."),
    ] = False,
) -> None:
    start_logging(verbose)
    AS_JSON.set(as_json)


def main() -> None:
    """Entry point: user errors end in one paragraph and exit code 1, never in a traceback."""
    arguments = sys.argv[1:]
    keep_slurm_jobs_offline()
    try:
        join_ranks(arguments)
        if len(sys.argv) > 2 and "--help" not in sys.argv and sys.argv[1:3] != ["cluster", "launch"]:
            start_logging()
            log_job_header()
        app()
    except AlreadyMade as made:
        print_result({"output": str(made.output), "made": "meanwhile, by the process that was waited for"})
        raise
    except Interrupted as interruption:
        _say("stopped early:", "yellow", folded(str(interruption)))
        sys.exit(leave_ranks(EXIT_INTERRUPTED))
    except (ValueError, OSError, RuntimeError) as error:
        failure = _user_failure(error)
        if failure is None:
            raise
        code, message = failure[0], folded(failure[1])
        of_launcher = arguments[:1] == ["cluster"]  # what it starts speaks for itself
        will_fail_again = RUN_VARIABLE in os.environ and not of_launcher and not may_pass(error)
        _say("error:", "bold red", f"{message}\n{FAILS_AGAIN}" if will_fail_again else message)
        sys.exit(code)


def _user_failure(error: Exception) -> tuple[int, str] | None:
    """Exit code and words of an error that a user can mend; None for a fault of the program."""
    if isinstance(error, OutOfDeviceMemory):
        return EXIT_OUT_OF_MEMORY, str(error)
    if not isinstance(error, RuntimeError):
        return 1, str(error)
    from cdgmae.runtime.out_of_memory import is_out_of_memory

    if not is_out_of_memory(error):
        return None
    text = f"the GPU's memory does not suffice: {str(error).splitlines()[0]} Lower the batch size of this stage's settings and run it again."
    return EXIT_OUT_OF_MEMORY, text


def _say(head: str, style: str, message: str) -> None:
    console = open_console(stderr=True)
    console.print(head, style=style, end=" ")
    console.print(message, soft_wrap=True)


if __name__ == "__main__":
    main()
