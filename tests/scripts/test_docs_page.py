"""What a script writes between the markers of a page stands where the markers stand, however often it is written."""

from __future__ import annotations

import pytest

from scripts.docs_page import put, section


def test_lines_are_as_far_in_as_their_marker(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "- item\n\n  <!-- a: begin -->\n  old\n  <!-- a: end -->\n\n<!-- b: begin --><!-- b: end -->\nend\n"
    )
    for _ in range(2):  # the second time changes nothing
        put(page, "a", ["| x |", "", "| y |"])
        put(page, "b", ["text"])
    assert page.read_text() == (
        "- item\n\n  <!-- a: begin -->\n\n  | x |\n\n  | y |\n\n  <!-- a: end -->\n\n"
        "<!-- b: begin -->\n\ntext\n\n<!-- b: end -->\nend\n"
    )
    assert section(page, "b") == ["", "", "text", ""]


def test_a_page_without_the_marker_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- a: begin -->\n")
    with pytest.raises(SystemExit, match="a: end"):
        put(page, "a", ["x"])
    assert page.read_text() == "<!-- a: begin -->\n"
