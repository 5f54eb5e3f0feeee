"""The tree keeps our own rules, and each rule finds its own bad examples."""

import inspect

import pytest

from tests.house.rules import RULES, Rule
from tests.house.tree import text_files

BAD = [pytest.param(rule, bad, id=f"{rule.name}-{number}") for rule in RULES for number, bad in enumerate(rule.bad)]
GOOD = [pytest.param(rule, ok, id=f"{rule.name}-{number}") for rule in RULES for number, ok in enumerate(rule.good)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_tree_keeps_the_rule(rule: Rule) -> None:
    findings = [
        f"{path}:{line}: {what}"
        for path, text in text_files().items()
        if rule.applies_to(path)
        for line, what in rule.check(text)
    ]

    if findings:
        pytest.fail("\n".join([inspect.getdoc(rule.check) or "", *findings]), pytrace=False)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_rule_covers_a_file(rule: Rule) -> None:
    """A pattern that matches nothing would keep its promise for ever."""
    assert any(rule.applies_to(path) for path in text_files())


@pytest.mark.parametrize(("rule", "example"), BAD)
def test_the_rule_bites_on_a_bad_example(rule: Rule, example: str) -> None:
    assert list(rule.check(example))


@pytest.mark.parametrize(("rule", "example"), GOOD)
def test_the_rule_leaves_a_good_example_alone(rule: Rule, example: str) -> None:
    assert list(rule.check(example)) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_rule_says_why(rule: Rule) -> None:
    assert inspect.getdoc(rule.check)
