"""Cards: the README.md that makes a folder readable on a model or data hub, metadata first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CardData

PAPER = "CDG-MAE: Learning Correspondences from Diffusion Generated Views"
NO_LICENCE = "other"


def card_text(metadata: CardData, title: str, sections: Mapping[str, str]) -> str:
    """The text of a card.

    Args:
        metadata: What the hub reads: tags, licence, configurations.
        title: Its heading.
        sections: Heading -> Markdown text, in order.
    """
    body = "\n".join(f"## {heading}\n\n{text.strip()}\n" for heading, text in sections.items())
    return f"---\n{metadata.to_yaml()}\n---\n\n# {title}\n\n{body}"


def licence_text(licence: str, subject: str) -> str:
    """What the card says about the licence; without one it says that it is missing."""
    if licence == NO_LICENCE:
        return f"No licence was chosen for {subject}. Choose one (`--license`) before you publish this folder."
    return f"`{licence}`, chosen by whoever exported {subject}."


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers with one decimal, or three below 1."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def json_block(values: Mapping[str, Any]) -> str:
    """Settings as a block of JSON."""
    return "```json\n" + json.dumps(values, indent=2, sort_keys=True) + "\n```"


def refuse_used_folder(output: Path) -> None:
    """Check that nothing would be overwritten.

    Raises:
        ValueError: if `output` exists and is not an empty folder.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"--output {output}: already exists; choose a new folder, or remove that one first")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"
    return "-" if value is None else str(value)
