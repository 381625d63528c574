"""A URL for any driver, or none, becomes one for a driver with asyncio."""

from __future__ import annotations

import pytest

from rowbell._urls import driver_of, url_for


@pytest.mark.parametrize(
    ("url", "driver", "converted"),
    [
        ("postgresql://h/d?sslmode=require", "asyncpg", "postgresql+asyncpg://h/d?ssl=require"),
        ("postgres://h/d", "asyncpg", "postgresql+asyncpg://h/d"),
        ("postgresql+psycopg2://h/d", "psycopg", "postgresql+psycopg://h/d"),
        (
            "postgresql+asyncpg://h/d?ssl=require",
            "psycopg",
            "postgresql+psycopg://h/d?sslmode=require",
        ),
    ],
)
def test_the_name_of_the_encryption_mode_is_that_of_the_driver(
    url: str, driver: str, converted: str
) -> None:
    assert url_for(driver, url).render_as_string(hide_password=False) == converted


@pytest.mark.parametrize(
    ("drivername", "driver"),
    [
        ("postgresql", "asyncpg"),
        ("postgresql+psycopg2", "asyncpg"),
        ("postgresql+asyncpg", "asyncpg"),
        ("postgresql+psycopg", "psycopg"),
        ("postgresql+psycopg_async", "psycopg"),
    ],
)
def test_psycopg_is_used_only_if_the_url_names_it(drivername: str, driver: str) -> None:
    assert driver_of(f"{drivername}://h/d") == driver
