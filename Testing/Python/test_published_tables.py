"""The tables in the documents agree with the stored scores, from which `Testing/Benchmarks/tables.py` makes them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "Benchmarks"))

import tables


def test_documents_show_what_the_scores_say() -> None:
    stale = [path.relative_to(tables.ROOT) for path, text in tables.texts().items() if path.read_text("utf-8") != text]
    assert not stale, "run `python Testing/Benchmarks/tables.py`"


def test_every_stored_comparison_is_held_to_its_scores() -> None:
    assert {
        "real_comparisons/mr_to_ct",
        "real_comparisons/192_ct_to_mr",
        "phantom_comparisons/cardiac_mr_to_ct",
    } <= set(tables.stored())
    assert not any("before" in name for name in tables.stored())


def test_every_table_is_shown_once() -> None:
    shown = [name for document in tables.DOCUMENTS for name in tables.shown_in(document.read_text("utf-8"))]
    assert sorted(shown) == sorted(tables.tables())


@pytest.mark.parametrize("name", ["README", "three seeds", "ct_to_mr, by subject", "phantoms"])
def test_a_wrong_number_is_found_and_the_text_around_stays(name: str) -> None:
    shown = f"Before.\n\n<!-- tables.py: {name} -->\n\n{tables.table(name)}\n\nAfter.\n"
    assert tables.with_tables(shown) == shown
    wrong = re.sub(r"\d\d\.\d", "99.9", shown, count=1)
    assert wrong != shown
    assert tables.with_tables(wrong) == shown


def test_a_marker_without_its_table_is_refused() -> None:
    with pytest.raises(KeyError, match="by hand"):
        tables.with_tables("<!-- tables.py: by hand -->\n\n| a |\n|---|\n")
    for text in ("<!-- tables.py: README -->\n| a |\n|---|\n", "<!-- tables.py: README -->\n\nText.\n"):
        with pytest.raises(ValueError, match="after each marker"):
            tables.with_tables(text)
