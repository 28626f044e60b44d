"""The documentation says what the code says."""

import re
from pathlib import Path

import pytest

from domain.events import EVENT_CLASSES
from infra.problems import PROBLEMS
from infra.settings import Settings

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
NOT_YET_REACHABLE = {"unauthenticated", "forbidden", "rate-limited"}


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_stands_in_the_reference_with_its_meaning(name: str) -> None:
    row = next(line for line in REFERENCE.splitlines() if line.startswith(f"| `STOCKHOLD_{name.upper()}` |"))
    field = Settings.model_fields[name]
    assert field.description
    assert row.endswith(f"| {field.description} |")
    if field.default not in {"", None}:
        assert f"`{field.default}`" in row


def test_the_reference_names_no_setting_that_does_not_exist() -> None:
    named = set(re.findall(r"^\| `STOCKHOLD_([A-Z_]+)` \|", REFERENCE, re.MULTILINE))
    assert named == {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("code", sorted(set(PROBLEMS) - NOT_YET_REACHABLE))
def test_every_problem_code_stands_in_the_reference(code: str) -> None:
    assert f"`{code}`" in REFERENCE


@pytest.mark.parametrize("topic", [event_class.TOPIC for event_class in EVENT_CLASSES])
def test_every_event_stands_in_the_reference(topic: str) -> None:
    assert f"`{topic}`" in REFERENCE


def test_links_between_the_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
