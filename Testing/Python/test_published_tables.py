"""The tables in the documents agree with the stored scores, from which `Testing/Benchmarks/tables.py` makes them."""

from __future__ import annotations

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


def test_a_wrong_number_is_found_and_the_text_around_stays() -> None:
    shown = f"Before.\n\n<!-- tables.py: README -->\n\n{tables.table('README')}\n\nAfter.\n"
    assert tables.with_tables(shown) == shown
    assert tables.with_tables(shown.replace("82.0", "92.0")) == shown


def test_a_table_that_nothing_makes_is_refused() -> None:
    with pytest.raises(KeyError, match="by hand"):
        tables.with_tables("<!-- tables.py: by hand -->\n\n| a |\n|---|\n")
