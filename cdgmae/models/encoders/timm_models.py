"""The names of timm's models and of their published weights, which timm knows without a network."""

from __future__ import annotations

import difflib

import timm
from timm.models import get_deprecated_models

MOST_SHOWN = 3


def name_problem(name: str, *, weights: bool) -> str | None:
    """Why timm has no such model, with names like it; None if it has.

    Args:
        name: `ARCHITECTURE` or `ARCHITECTURE.TAG`.
        weights: Whether published weights are wanted. Without a tag timm takes the first that it lists.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        return f"timm has no such model{_like(architecture, timm.list_models())}; timm.list_models() in Python lists them"
    if architecture in get_deprecated_models():  # an older name of a model with its weights
        return None
    published = [known.partition(".")[2] for known in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in published:
        return (
            f"timm has no such weights of {architecture}; published are {', '.join(published) or 'none'}{_like(tag, published)}"
        )
    if weights and not tag and not published:
        return f"timm has no published weights of {architecture}; write checkpoint: FILE beside it, or random: {architecture}"
    return None


def _like(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=MOST_SHOWN)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
