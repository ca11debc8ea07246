"""Checked filter expressions (`cdgmae.settings.reading.expressions`) as Arrow filters, which data sets push down to their files."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow.compute as pc

from cdgmae.settings.reading.expressions import parse_expression

OPERATIONS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: pc.add, ast.Sub: pc.subtract, ast.Mult: pc.multiply, ast.Div: pc.divide, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip


def arrow_filter(text: str, columns: Iterable[str]) -> pc.Expression:
    """The condition `text` on `columns` as an Arrow expression; rows where it is null (a column is missing its value) do not pass.

    Raises:
        ValueError: as `parse_expression`.
    """
    return _convert(parse_expression(text, columns))


def _convert(node: ast.expr) -> Any:
    match node:
        case ast.BoolOp(op=op, values=values):
            return functools.reduce(operator.and_ if isinstance(op, ast.And) else operator.or_, map(_convert, values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_convert(operand)
        case ast.UnaryOp(operand=operand):
            return pc.negate(_convert(operand))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            values = [_convert(value) for value in (left, *comparators)]
            pairs = zip(ops, values[:-1], values[1:], strict=True)
            return functools.reduce(operator.and_, [OPERATIONS[type(op)](first, second) for op, first, second in pairs])
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATIONS[type(op)](_convert(left), _convert(right))
        case ast.Name(id=name):
            return pc.field(name)
        case ast.Constant(value=str() as word):
            return pc.scalar(word)
        case ast.Constant(value=int() | float() as number):
            return pc.scalar(float(number))  # 1/3 is no whole number
    raise TypeError(f"unchecked expression {ast.dump(node)}")
