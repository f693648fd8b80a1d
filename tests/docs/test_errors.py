"""docs/troubleshooting.md has every code of `meshnode.errors`, and no other."""

from __future__ import annotations

import re

import pytest

from meshnode.errors import BY_CODE
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"


def test_every_code_is_explained() -> None:
    """One heading a code, in the order of the alphabet."""
    assert sorted(BY_CODE) == re.findall(r"^## (\w+)$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_a_code_says_whose_fault_it_is_and_what_to_do(code: str) -> None:
    """The fault is the one in the code, and something follows that the reader can do."""
    section = re.split(r"^## ", PAGE.read_text().split(f"\n## {code}\n")[1], flags=re.MULTILINE)[0]
    assert section.startswith(f"\nFault: {BY_CODE[code].fault}. ")
    assert "\n* " in section or "Nothing to mend" in section
