"""Filter expressions on table columns, e.g. `nps >= 0.6 and gs >= 0.9`: what may be written, checked without evaluating anything.

Import-light, so that an expression in the configuration is checked before any job runs; `cdgmae.storage.expressions` turns a checked one
into a filter on tables.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Literal

OPERATORS: tuple[type[ast.AST], ...] = (
    ast.And, ast.Or, ast.Not, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq,
)  # fmt: skip


TEXT_COLUMNS = frozenset({"key", "source", "class_name", "status", "reason", "encoder"})
"""Columns of text; all others hold numbers."""

MAX_CHARACTERS, MAX_DEPTH, MAX_NUMBER = 1_000, 40, 1e15
EXAMPLE = "write e.g. 'nps >= 0.6 and gs >= 0.9'"

Kind = Literal["number", "text"]


def parse_expression(text: str, columns: Iterable[str]) -> ast.expr:
    """The syntax tree of a condition on `columns`.

    Allowed are column names, numbers, quoted text, comparisons of numbers with numbers and text with text, + - * / of numbers, and, or,
    not, and brackets.

    Raises:
        ValueError: naming what is not allowed and which columns there are.
    """
    allowed = list(columns)
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"expression of {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        said = error.msg if isinstance(error, SyntaxError) else str(error) or "nested too deep"
        raise ValueError(f"expression {text!r} cannot be read ({said}); {EXAMPLE}") from None
    _check_depth(tree, text)
    _check_condition(tree, text, allowed)
    return tree


def _check_depth(tree: ast.expr, text: str) -> None:
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    raise ValueError(f"expression {text!r} is nested deeper than {MAX_DEPTH} levels; {EXAMPLE}")


def _check_condition(node: ast.AST, text: str, columns: list[str]) -> None:
    """A condition: comparisons of values, joined by and, or, not."""
    if isinstance(node, ast.BoolOp):
        for part in node.values:
            _check_condition(part, text, columns)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check_condition(node.operand, text, columns)
    elif isinstance(node, ast.Compare) and all(isinstance(op, OPERATORS) for op in node.ops):
        values = [node.left, *node.comparators]
        if len({_kind_of(value, text, columns) for value in values}) > 1:
            raise ValueError(f"expression {text!r}: {ast.unparse(node)!r} compares a number with a text; quotes make a text")
        if not any(isinstance(part, ast.Name) for value in values for part in ast.walk(value)):
            raise ValueError(f"expression {text!r}: {ast.unparse(node)!r} names no column; columns: {', '.join(columns)}")
    else:
        raise ValueError(f"expression {text!r}: {ast.unparse(node)!r} is no comparison; {EXAMPLE}")


def _kind_of(node: ast.AST, text: str, columns: list[str]) -> Kind:
    """What a value is: a column, a number, a text, or a sum or product of numbers."""
    if isinstance(node, ast.Name):
        if node.id not in columns:
            raise ValueError(f"expression {text!r}: no column {node.id!r}; columns: {', '.join(columns)}")
        return "text" if node.id in TEXT_COLUMNS else "number"
    operands = _operands(node)
    if operands:
        if "text" in [_kind_of(part, text, columns) for part in operands]:
            raise ValueError(f"expression {text!r}: {ast.unparse(node)!r} calculates with text; use numbers there")
        return "number"
    if isinstance(node, ast.Constant) and type(node.value) is str:
        return "text"
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and type(node.value) is not bool:
        if not abs(node.value) <= MAX_NUMBER:
            raise ValueError(f"expression {text!r}: {ast.unparse(node)!r} is larger than any score can be")
        return "number"
    raise ValueError(f"expression {text!r}: {ast.unparse(node)!r} is not allowed; use columns, numbers, quoted text and + - * /")


def _operands(node: ast.AST) -> list[ast.expr]:
    """The operands of + - * / and of a sign; none of anything else."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, OPERATORS):
        return [node.left, node.right]
    return [node.operand] if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else []
