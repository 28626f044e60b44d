"""What a reader may rely on everywhere: functions that fit a screen, files that fit a head, nothing left for later."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("domain", "write_side", "projections", "read_api", "infra", "benchmarks", "demo", "tests")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
LEFT_FOR_LATER = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|NotImplemented" + r"Error)\b")
ABSTRACT = {"domain/aggregate.py"}
"""Where a base class says what its subclasses must do."""


def test_there_are_sources_to_look_at() -> None:
    assert len(SOURCES) > 100


def test_sources_are_tidy() -> None:
    untidy = [f"{path.relative_to(ROOT)}: {fault}" for path in SOURCES for fault in faults_of(path)]
    assert untidy == []


def faults_of(path: Path) -> Iterator[str]:
    text = path.read_text()
    if text.count("\n") > FILE_LINES_MAX:
        yield "too long a file"
    if str(path.relative_to(ROOT)) not in ABSTRACT and LEFT_FOR_LATER.search(text):
        yield "something left for later"
    if text.count("\n") < FUNCTION_LINES_MAX:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{node.name} has {length} lines"
