"""``rowbell`` on the command line.

``pip install rowbell[cli]``
"""

try:
    import psycopg  # noqa: F401  # pyright: ignore[reportUnusedImport]
    import rich  # noqa: F401  # pyright: ignore[reportUnusedImport]
    import typer  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as _error:
    raise SystemExit(f"rowbell: {_error}: pip install rowbell[cli]") from _error

from rowbell.cli.commands import main

__all__ = ["main"]
