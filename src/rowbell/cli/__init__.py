"""``rowbell`` on the command line.

``pip install rowbell[cli]``
"""

try:
    import psycopg  # noqa: F401  # pyright: ignore[reportUnusedImport]
    import rich  # noqa: F401  # pyright: ignore[reportUnusedImport]
    import typer  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as error:
    raise SystemExit(f"rowbell: {error}: pip install rowbell[cli]") from error

from rowbell.cli.commands import main

__all__ = ["main"]
