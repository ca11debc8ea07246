"""All messages of the package that name a command, read from its source; the page `docs/when_things_fail.md` is made of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"`((?:cdgmae|snakemake|rm) [^`]+)`")
WRITTEN = {
    "how_to_remake": "delete it with `rm -r RESULT`, and the same run of the workflow again makes it anew",
    "how_to_run": "run `snakemake --cores all STAGE`, with the --configfile of your run",
    "how_to_make": "make it with `snakemake --cores all RESULT`, with the --configfile of your run",
}
"""Functions of `cdgmae.names` and `cdgmae.workflow.last_run` that write the end of a message, and what they write for a result of the workflow."""

TITLES = {
    "shards": "Shards", "views": "Views", "generators": "Generators", "consistency": "Consistency", "pretrain": "Pre-training",
    "models": "Encoders", "propagation": "Propagation", "report": "Report", "storage": "Files", "cluster": "Cluster",
    "runtime": "Machine", "commands": "Command line", "config": "Configuration", "settings": "Configuration", "training": "Training",
    "workflow": "Configuration", "status": "Status", "demo": "Demo", "interchange": "Export",
}  # fmt: skip

HEAD = """\
# When things fail

Messages that name a command, and the command. Capitals and dots stand for what the message fills in. The page is made from the package's source by
`pytest tests/docs/test_remedies.py --write-pages`, which also tries them: that
they exist with their options, and that what is deleted is made again.

* Nothing finished is lost by a failure: run the same line again. What is kept of unfinished work, `cdgmae status` says.
* Something may be damaged: `cdgmae verify results`, then `cdgmae verify --repair results` and the same run again.
* A job was killed: the same line again. The controller was killed: the same line with `--rerun-incomplete` (after `--unlock` if it says so);
  on a cluster `cdgmae cluster run`, which does both.
* A result is not what you expect: `cdgmae provenance FILE` says from what it was made.
"""


GENERAL_CODES = {
    0: "it did what was asked", 1: "bad input or a failure: the message says what to do",
    2: "the command line is wrong: the message names the option or argument",
    130: "Ctrl-C: the same line again goes on with what is kept",
}  # fmt: skip

RUN = "snakemake --cores 2 --configfile my.yaml"
SNAKEMAKE: dict[str, tuple[str, tuple[str, ...]]] = {
    "IncompleteFilesException:": ("Snakemake was killed while its jobs wrote these files", (f"{RUN} --rerun-incomplete",)),
    "Error: Directory cannot be locked.": (
        "a run is going on in this folder, or was killed there; if it was",
        ("snakemake --unlock --configfile my.yaml", f"{RUN} --rerun-incomplete"),
    ),
    "Error: No Snakefile found": ("in another folder than that of the run", ("cd FOLDER", RUN)),
    "Workflow defines configfile config.yaml but it is not present": (
        "without --configfile Snakemake takes config.yaml, also with --unlock", (RUN,),
    ),
    "FileNotFoundError: [Errno 2] No such file or directory: 'mine.yaml'": ("behind a traceback: --configfile names no file", (RUN,)),
    "FileNotFoundError: [Errno 2] No such file or directory: 'shards'": (
        "every word behind --configfile is taken for a file: targets stand behind --", (f"{RUN} -- shards",),
    ),
    "Error: cores have to be specified for local execution": ("--cores is missing", (RUN,)),
    "MissingRuleException:": (
        "no rule is named so, or makes such a file; the targets are", ("snakemake --list-target-rules --configfile my.yaml",),
    ),
    "ConfigError: what was asked for is not made by this configuration": (
        "a file of a data set, source, run or evaluation set that is not configured; the names are", ("cdgmae config check --config my.yaml",),
    ),
}  # fmt: skip
"""What Snakemake says -> when, and the lines that help; `tests/workflow/test_snakemake_messages.py` provokes each and runs them. Cycles and missing
inputs, of which it would tell as well, are refused by the configuration's check."""


class Message(NamedTuple):
    """A message, where it stands, and the commands in it."""

    room: str
    text: str
    commands: tuple[str, ...]


def messages() -> list[Message]:
    """All of them, in the order of the rooms above."""
    found = {message for path in sorted((ROOT / "cdgmae").rglob("*.py")) for message in _messages_of(path)}
    return sorted(found, key=lambda message: (list(TITLES).index(message.room), message.text))


def exit_codes() -> dict[int, str]:
    """Exit codes of `cdgmae`, and what they say: Typer's, and the constants of the package with their descriptions."""
    body = ast.parse((ROOT / "cdgmae/runtime/interrupts.py").read_text(encoding="utf-8")).body
    own = {
        ast.literal_eval(node.value): ast.literal_eval(said.value).removeprefix("Exit code of ")
        for node, said in pairwise(body)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("EXIT_") and isinstance(said, ast.Expr)
    }
    return dict(sorted((GENERAL_CODES | own).items()))


def page(found: list[Message]) -> str:
    """The whole page."""
    parts, title = [HEAD, "\n## Exit codes\n\n| code | `cdgmae` ended with it |\n|---|---|\n"], ""
    parts += [f"| {code} | {said} |\n" for code, said in exit_codes().items()]
    parts.append(
        "\nSnakemake ends with 0 or 1.\n\n## Snakemake's own messages\n\n| message | when | what to do |\n|---|---|---|\n"
    )
    for said, (when, lines) in SNAKEMAKE.items():
        parts.append(f"| `{said}` | {when} | {'; then '.join(f'`{line}`' for line in lines)} |\n")
    for message in found:
        if TITLES[message.room] != title:
            title = TITLES[message.room]
            parts.append(f"\n## {title}\n\n| message | what to do |\n|---|---|\n")
        shown = message.text.replace("|", "\\|").replace("<", "&lt;")
        parts.append(f"| {shown} | {', '.join(f'`{command}`' for command in message.commands)} |\n")
    return "".join(parts)


def _messages_of(path: Path) -> Iterator[Message]:
    room = path.relative_to(ROOT / "cdgmae").parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        thrown = isinstance(node, ast.Raise | ast.Return)
        said = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("warning", "error")
        if not (thrown or said):
            continue
        for text in _texts(node):
            if commands := COMMAND.findall(text):
                yield Message(room, text, tuple(dict.fromkeys(commands)))


def _texts(node: ast.AST) -> Iterator[str]:
    """Whole texts below a node; pieces of f-strings are not texts of their own."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr):
            yield " ".join("".join(map(_piece, child.values)).split())
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield " ".join(child.value.split())
        else:
            yield from _texts(child)


def _piece(value: ast.expr) -> str:
    """What stands for a piece of an f-string: the name of what is filled in, in capitals where it is a single word."""
    if isinstance(value, ast.Constant):
        return str(value.value)
    inner = value.value if isinstance(value, ast.FormattedValue) else value
    if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id in WRITTEN:
        return WRITTEN[inner.func.id]
    if isinstance(inner, ast.Call) and ast.unparse(inner.func) == "shlex.quote":
        inner = inner.args[0].args[0] if isinstance(inner.args[0], ast.Call) else inner.args[0]
    return inner.id.upper() if isinstance(inner, ast.Name) else "..."
