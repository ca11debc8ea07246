"""The page of all commands and options, as `cdgmae --help` tells them."""

from __future__ import annotations

import re

from typer import Context
from typer.cli import MARKUP_MODE_KEY, get_docs_for_click
from typer.main import get_command

from cdgmae.cli import app

NEEDLESS = (
    r"\*\*Commands\*\*:\n\n(\* .*\n)+\n",  # their headings follow
    r"\* `--(help|install-completion|show-completion)`: .*\n",
    r"\*\*Options\*\*:\n\n(?=\n|\Z)",
)


def command_page() -> str:
    """Markdown of every command with its arguments and options."""
    command = get_command(app)
    context = Context(command, info_name="cdgmae", obj={MARKUP_MODE_KEY: "rich"})
    text = get_docs_for_click(obj=command, ctx=context, name="cdgmae", title="Command line")
    for pattern in NEEDLESS:
        text = re.sub(pattern, "", text)
    return text
