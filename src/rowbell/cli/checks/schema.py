"""The schema ``rowbell``: its version, its objects, and who may do what with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rowbell._watch.database.ddl import in_terms_of_pg_catalog
from rowbell._watch.database.installed import tables_with_triggers
from rowbell._watch.database.schema import (
    SCHEMA_VERSION,
    SchemaState,
    SchemaStatus,
    schema_status,
)
from rowbell._watch.database.trust import untrusted_owners
from rowbell.cli.checks.finding import Finding, Outcome
from rowbell.cli.checks.query import rows

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell.cli.target import Target

_DEPENDED: Final = (
    "SELECT DISTINCT 'the condition of a trigger of ' || t.tgrelid::regclass || ' uses '"
    " || pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)"
    " FROM pg_trigger AS t JOIN pg_depend AS d"
    "  ON d.classid = 'pg_trigger'::regclass AND d.objid = t.oid AND d.refobjid <> t.tgfoid"
    " LEFT JOIN pg_proc AS f ON d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid"
    " LEFT JOIN pg_operator AS o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid"
    " WHERE t.tgname IN ('rowbell_update', 'rowbell_delete', 'rowbell_truncate', 'rowbell_insert')"
    " AND coalesce(f.pronamespace, o.oprnamespace) <> 'pg_catalog'::regnamespace"
)
"""Functions and operators of others in conditions. Those of PostgreSQL are not in pg_depend."""


async def _status(engine: AsyncEngine) -> SchemaStatus:
    def read(connection: Connection) -> SchemaStatus:
        with in_terms_of_pg_catalog(connection):
            return schema_status(connection)

    async with engine.connect() as connection:
        return await connection.run_sync(read)


async def installed(engine: AsyncEngine, _: Target) -> list[Finding]:
    """Whether the schema is there, in a version that this library works with."""
    name, status = "schema rowbell", await _status(engine)
    if status.state is SchemaState.MISSING:
        fix = "rowbell install TABLE, or install it by a migration"
        return [Finding(name, Outcome.FAILED, "it does not exist, so no table has triggers", fix)]
    evidence = f"version {status.version}, owner {status.owner}"
    if status.state is SchemaState.INCOMPATIBLE:
        return [Finding(name, Outcome.FAILED, evidence, "update the library rowbell")]
    if status.version is None or status.version < SCHEMA_VERSION:
        fix = "rowbell upgrade, as the owner"
        return [Finding(name, Outcome.FAILED, evidence, fix)]
    return [Finding(name, Outcome.OK, evidence)]


async def objects(engine: AsyncEngine, _: Target) -> list[Finding]:
    """Whether each object, with its rights, is as this library creates it."""
    name, status = "objects and rights", await _status(engine)
    if status.state is SchemaState.MISSING:
        return []
    if status.differences:
        fix = f"rowbell upgrade, as {status.owner}: it repairs them"
        return [Finding(name, Outcome.FAILED, "; ".join(status.differences), fix)]
    return [Finding(name, Outcome.OK, "all are as they were created")]


async def trust(engine: AsyncEngine, _: Target) -> list[Finding]:
    """Whether writers run only code of roles that could change the tables anyway."""

    def read(connection: Connection) -> list[str]:
        found = {table.oid: table for table in tables_with_triggers(connection)}
        with in_terms_of_pg_catalog(connection):
            return [
                f"{what}, which belongs to {role}, runs for writers of {found[oid].name}"
                for oid, what, role in untrusted_owners(connection, list(found))
            ]

    async with engine.connect() as connection:
        foreign = await connection.run_sync(read)
    foreign += [str(what) for (what,) in await rows(engine, _DEPENDED)]
    if foreign:
        fix = "ALTER … OWNER TO the table's owner, and REVOKE CREATE ON SCHEMA rowbell"
        return [Finding("trust", Outcome.FAILED, "; ".join(sorted(set(foreign))), fix)]
    return [Finding("trust", Outcome.OK, "writers run no code of others")]


async def rights(engine: AsyncEngine, _: Target) -> list[Finding]:
    """Whether this role may listen, and register rows."""
    [(role, exists, may_listen, may_register)] = await rows(
        engine,
        "SELECT current_user, to_regnamespace('rowbell') IS NOT NULL,"
        " to_regprocedure('rowbell.open_listener()') IS NOT NULL AND"
        " has_function_privilege('rowbell.open_listener()', 'EXECUTE'),"
        " coalesce((SELECT bool_or(has_function_privilege(f.oid, 'EXECUTE')) FROM pg_proc AS f"
        "  WHERE f.pronamespace = to_regnamespace('rowbell') AND f.proname = 'register'), false)",
    )
    if not exists:
        return []
    if may_listen and may_register:
        return [Finding("rights", Outcome.OK, f"the role {role} may listen and register rows")]
    fix = f"GRANT EXECUTE ON FUNCTION rowbell.register TO {role}, as the schema's owner"
    return [Finding("rights", Outcome.FAILED, f"the role {role} may not register rows", fix)]
