"""The names that the package exports."""

from __future__ import annotations

import rowbell


def test_all_public_names_are_there() -> None:
    assert all(hasattr(rowbell, name) for name in rowbell.__all__)
    assert sorted(rowbell.__all__) == list(rowbell.__all__)
