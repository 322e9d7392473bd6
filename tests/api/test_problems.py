"""The page of problems: each type has its section, with its status and its title."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mailactors.api.problems import KINDS, TYPE_PREFIX

PAGE = (Path(__file__).parent.parent.parent / "mailactors" / "api" / "PROBLEMS.md").read_text()
SECTIONS = dict(re.findall(r"^## (\S+)\n\n(.*?)(?=\n## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def test_the_page_has_the_types_that_there_are_in_their_order() -> None:
    assert list(KINDS) == list(SECTIONS)
    assert f"`{TYPE_PREFIX}`" in PAGE


@pytest.mark.parametrize("slug", KINDS)
def test_a_section_says_what_it_is_and_what_to_do(slug: str) -> None:
    kind = KINDS[slug]

    what, do = SECTIONS[slug].strip().split("\n\n")

    assert " ".join(what.split()).startswith(f"{kind.status}: {kind.title}. ")
    assert do.strip()
