"""The domain reads no clock, rolls no dice and touches nothing outside: a look at its source, module by module."""

import ast
from pathlib import Path

import pytest

import domain

MODULES = sorted(Path(domain.__file__).parent.glob("*.py"))
ALLOWED = {
    "collections",
    "dataclasses",
    "datetime",
    "decimal",
    "domain",
    "enum",
    "eventsourcing",
    "heapq",
    "itertools",
    "math",
    "msgspec",
    "typing",
}
CLOCKS = {"now", "utcnow", "today", "fromtimestamp", "create_timestamp", "datetime_now_with_tzinfo"}


def imported(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            names.add(node.module.split(".")[0])
    return names


def clocks_read(tree: ast.Module) -> set[str]:
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {call.attr for call in calls if isinstance(call, ast.Attribute)} & CLOCKS


def test_there_are_modules_to_look_at():
    assert {"stock_item.py", "reservation.py", "expiry.py"} <= {path.name for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_domain_module_is_pure(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert imported(tree) <= ALLOWED
    assert clocks_read(tree) == set()


def test_the_look_finds_what_it_looks_for():
    tree = ast.parse("import os.path\nfrom time import time\nx = datetime.now(tz=UTC)")
    assert imported(tree) == {"os", "time"}
    assert clocks_read(tree) == {"now"}
