"""Failpoints are a tool of tests: the product has the points, and nothing in it that could arm them."""

import ast
from collections import Counter
from collections.abc import Iterator
from typing import get_args

from ewallet.plumbing.failpoints import Point
from tests.house.tree import text_files

HOME = "src/ewallet/plumbing/failpoints.py"
ELSEWHERE = {
    path: text
    for path, text in text_files().items()
    if path.startswith("src/") and path.endswith(".py") and path != HOME and "failpoints" in text
}


def points_in(source: str) -> Iterator[str]:
    """The names of the points that a file reaches."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name("failpoints"), attr="reached"), args=[first, *_]):
                yield str(ast.literal_eval(first))


def other_uses(source: str) -> Iterator[str]:
    """Whatever else a file does with the module than to reach a point."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name("failpoints"), attr=name) if name != "reached":
                yield ast.unparse(node)
            case (
                ast.ImportFrom(module="ewallet.plumbing.failpoints")
                | ast.Import(names=[ast.alias("ewallet.plumbing.failpoints")])
            ):
                yield ast.unparse(node)


def test_every_point_is_reached_in_exactly_one_place() -> None:
    reached = Counter(point for source in ELSEWHERE.values() for point in points_in(source))

    assert reached == Counter(get_args(Point))


def test_nothing_in_the_product_can_arm_a_point() -> None:
    assert {path: uses for path, text in ELSEWHERE.items() if (uses := list(other_uses(text)))} == {}


def test_a_file_that_arms_is_noticed() -> None:
    assert list(other_uses("failpoints.arm(print)")) == ["failpoints.arm"]
    assert list(other_uses("from ewallet.plumbing.failpoints import arm")) != []
    assert list(other_uses("failpoints.reached('commit.before')")) == []


def test_the_module_reads_no_setting_and_no_environment() -> None:
    imported = {node.module for node in ast.walk(ast.parse(text_files()[HOME])) if isinstance(node, ast.ImportFrom)}

    assert imported == {"collections.abc", "typing"}
