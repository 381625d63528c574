"""The model that the model checker checks is a model of this code."""

from __future__ import annotations

import importlib
from typing import Any

from check import modelled
from support.paths import ROOT

SQL = ROOT / "src" / "rowbell" / "_watch" / "database" / "sql"


def test_each_name_in_the_model_is_one_of_the_code() -> None:
    for name in modelled():
        module, _, attribute = name.partition(":")
        if module == "sql":
            assert (SQL / attribute).is_file(), name
            continue
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            assert hasattr(found, part), name
            found = getattr(found, part)
