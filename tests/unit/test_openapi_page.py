"""The documentation page: everything that the document says, and nothing from elsewhere."""

import re
from html.parser import HTMLParser

import pytest

from infra.openapi_page import openapi_page
from tests.command_api import ScriptedExecutor
from write_side.api.app import create_command_api


class Page(HTMLParser):
    """Links, anchors, text and open tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        named = dict(attrs)
        assert not {"src", "onclick", "onload"} & named.keys()
        if "id" in named:
            assert named["id"] not in self.anchors
            self.anchors.add(str(named["id"]))
        if "href" in named:
            self.links.add(str(named["href"]))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def document():
    return create_command_api(ScriptedExecutor()).app.openapi()


@pytest.fixture(scope="module")
def page(document):
    return Page(openapi_page(document))


def test_every_operation_and_every_type_is_there(document, page):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["operationId"] in page.anchors
            assert f"{method.upper()} {path}" in page.text
            assert operation["summary"] in page.text
    assert {f"schema-{name}" for name in document["components"]["schemas"]} <= page.anchors


def test_every_link_leads_somewhere_on_the_page_or_to_the_document(page):
    assert page.links == {link for link in page.links if link.startswith("#")} | {"openapi.json"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.anchors


def test_it_needs_nothing_from_elsewhere(document, page):
    assert not {"script", "link", "img", "iframe"} & page.tags
    assert not re.search(r"https?://", openapi_page(document))


def test_what_a_document_says_cannot_become_markup():
    document = {
        "info": {"title": "<script>alert(1)</script>", "description": "`<b>` & <i>"},
        "paths": {
            "/<x>": {
                "get": {
                    "operationId": '"><script>',
                    "summary": "<s>",
                    "responses": {
                        "200": {"description": "<u>", "content": {"text/plain": {"schema": {"enum": ["<b>"]}}}}
                    },
                }
            }
        },
        "components": {"schemas": {"<A>": {"properties": {"<f>": {"type": "string", "default": "<d>"}}}}},
    }
    page = Page(openapi_page(document))
    assert not {"script", "b>", "i", "s", "u"} & page.tags
    assert "<script>alert(1)</script>" in page.text
    for said in ("<b>", "<s>", "<u>", "<f>", "<d>"):
        assert said in page.text
