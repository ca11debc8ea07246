"""Filter expressions on table columns, e.g. `nps >= 0.6 and gs >= 0.9`: what may be written, checked without evaluating anything.

Import-light, so that an expression in the configuration is checked before any job runs; `cdgmae.storage.expressions` turns a checked one
into a filter on tables.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

OPERATORS: tuple[type[ast.AST], ...] = (
    ast.And, ast.Or, ast.Not, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq,
)  # fmt: skip


def parse_expression(text: str, columns: Iterable[str]) -> ast.expr:
    """The syntax tree of a condition on `columns`.

    Allowed are column names, numbers, quoted text, comparisons, + - * /, and, or, not, and brackets.

    Raises:
        ValueError: naming what is not allowed and which columns there are.
    """
    allowed = list(columns)
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"expression {text!r} cannot be read ({error.msg}); write e.g. 'nps >= 0.6 and gs >= 0.9'") from None
    _check_condition(tree, text, allowed)
    return tree


def _check_condition(node: ast.AST, text: str, columns: list[str]) -> None:
    """A condition: comparisons of values, joined by and, or, not."""
    if isinstance(node, ast.BoolOp):
        for part in node.values:
            _check_condition(part, text, columns)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check_condition(node.operand, text, columns)
    elif isinstance(node, ast.Compare) and all(isinstance(op, OPERATORS) for op in node.ops):
        for value in (node.left, *node.comparators):
            _check_value(value, text, columns)
    else:
        raise ValueError(f"expression {text!r}: {ast.unparse(node)!r} is no comparison; write e.g. 'nps >= 0.6 and gs >= 0.9'")


def _check_value(node: ast.AST, text: str, columns: list[str]) -> None:
    """A value: a column, a number, a text, or a sum or product of such."""
    if isinstance(node, ast.Name):
        if node.id not in columns:
            raise ValueError(f"expression {text!r}: no column {node.id!r}; columns: {', '.join(columns)}")
    elif isinstance(node, ast.BinOp) and isinstance(node.op, OPERATORS):
        _check_value(node.left, text, columns)
        _check_value(node.right, text, columns)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check_value(node.operand, text, columns)
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float, str)):
        raise ValueError(
            f"expression {text!r}: {ast.unparse(node)!r} is not allowed; use columns, numbers, quoted text and + - * /"
        )
