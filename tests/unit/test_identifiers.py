"""Identifiers and literals are quoted so that no content can end them early."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowbell._identifiers import qualified, quote_identifier, quote_literal


@given(st.text(min_size=1).filter(lambda name: "\0" not in name))
def test_any_name_is_quoted_so_that_it_ends_where_it_ends(name: str) -> None:
    quoted = quote_identifier(name)
    assert quoted[0] == quoted[-1] == '"'
    inside = quoted[1:-1]
    assert inside.replace('""', '"') == name
    assert '"' not in inside.replace('""', "")


def test_a_nul_is_in_no_name() -> None:
    with pytest.raises(ValueError, match="not an identifier"):
        quote_identifier("a\0b")


def test_an_empty_name_is_no_identifier() -> None:
    with pytest.raises(ValueError, match="not an identifier"):
        quote_identifier("")


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("", "''"),
        ("a", "'a'"),
        ("it's", "'it''s'"),
        ('say "hi"', "'say \"hi\"'"),
        ("a\\b", r"E'a\\b'"),
        ("\\'; --", r"E'\\''; --'"),
    ],
)
def test_a_literal_says_the_text_whatever_the_session_makes_of_backslashes(
    text: str, literal: str
) -> None:
    assert quote_literal(text) == literal


@given(st.text(st.characters(exclude_characters="\0")))
def test_a_literal_ends_where_it_ends(text: str) -> None:
    literal = quote_literal(text)
    escapes = literal.startswith("E")
    assert escapes is ("\\" in text)
    inside = literal.removeprefix("E")[1:-1]
    assert "'" not in inside.replace("''", "")
    said = inside.replace("''", "'")
    assert (said.replace("\\\\", "\\") if escapes else said) == text


@pytest.mark.parametrize(
    ("schema", "name", "table"),
    [(None, "orders", '"orders"'), ("", "a.b", '"a.b"'), ('my "app"', "t", '"my ""app"""."t"')],
)
def test_a_table_is_named_with_its_schema_if_it_has_one(
    schema: str | None, name: str, table: str
) -> None:
    assert qualified(schema, name) == table
