"""Whether a checked filter expression can hold at all, by interval arithmetic: `nps >= 5` cannot, as no score is above 1."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from math import inf, isnan

Interval = tuple[float, float]
"""Lowest and highest value."""

ANY: Interval = (-inf, inf)
OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}  # fmt: skip
MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE}


def can_be(node: ast.expr, wanted: bool, bounds: Mapping[str, Interval]) -> bool:
    """Whether a condition on numbers may be true, or false, for some values within the columns' bounds; True where that cannot be told.

    Args:
        node: A tree of `parse_expression`, without columns of text.
        wanted: What it shall be.
        bounds: Column -> its bounds.

    Raises:
        ValueError: if something is divided by what is always zero.
    """
    if isinstance(node, ast.UnaryOp):
        return can_be(node.operand, not wanted, bounds)
    parts = node.values if isinstance(node, ast.BoolOp) else [node]
    narrow, needs_all = bounds, isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And) == wanted
    if wanted and (needs_all or isinstance(node, ast.Compare)):
        narrow = _narrowed(parts, bounds)
    if isinstance(node, ast.BoolOp):  # each part is looked at, so that no division by zero is passed over
        held = [can_be(part, wanted, narrow) for part in parts]
    else:
        pairs = (
            (op if wanted else OPPOSITES[op], _range(left, narrow), _range(right, narrow)) for op, left, right in _pairs(node)
        )
        held, needs_all = [_may_hold(*pair) for pair in pairs], wanted
    return all(low <= high for low, high in narrow.values()) and (all(held) if needs_all else any(held))


def _pairs(node: ast.expr) -> Iterator[tuple[type[ast.cmpop], ast.expr, ast.expr]]:
    """The comparisons of a chain; none of anything else."""
    if isinstance(node, ast.Compare):
        for op, left, right in zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False):
            yield type(op), left, right


def _narrowed(parts: Sequence[ast.expr], bounds: Mapping[str, Interval]) -> dict[str, Interval]:
    """The bounds within which all comparisons of a column with something hold."""
    narrow = dict(bounds)
    for op, left, right in (pair for part in parts for pair in _pairs(part)):
        for sign, column, other in ((op, left, right), (MIRRORED.get(op, op), right, left)):
            if isinstance(column, ast.Name):
                (low, high), (least, most) = narrow[column.id], _range(other, bounds)
                low = max(low, least) if sign in (ast.Gt, ast.GtE, ast.Eq) else low
                narrow[column.id] = low, min(high, most) if sign in (ast.Lt, ast.LtE, ast.Eq) else high
    return narrow


def _may_hold(op: type[ast.cmpop], left: Interval, right: Interval) -> bool:
    if op in (ast.Lt, ast.LtE):
        return left[0] < right[1] or (op is ast.LtE and left[0] == right[1])
    if op in (ast.Gt, ast.GtE):
        return _may_hold(MIRRORED[op], right, left)
    same_number = left[0] == left[1] == right[0] == right[1]
    return not same_number if op is ast.NotEq else left[0] <= right[1] and right[0] <= left[1]


def _range(node: ast.expr, bounds: Mapping[str, Interval]) -> Interval:
    """Bounds of a sum or product of columns and numbers."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number), float(number)
        case ast.Name(id=name):
            return bounds[name]
        case ast.UnaryOp(operand=operand):
            low, high = _range(operand, bounds)
            return -high, -low
        case ast.BinOp(left=left, op=op, right=right):
            (a, b), (c, d) = _range(left, bounds), _range(right, bounds)
            if isinstance(op, ast.Add | ast.Sub):
                return (a + c, b + d) if isinstance(op, ast.Add) else (a - d, b - c)
            if isinstance(op, ast.Div):
                if c == d == 0:
                    raise ValueError(f"{ast.unparse(node)!r} divides by zero")
                if c <= 0 <= d:
                    return ANY
                c, d = 1 / d, 1 / c
            corners = [a * c, a * d, b * c, b * d]
            return ANY if any(map(isnan, corners)) else (min(corners), max(corners))
    return ANY
