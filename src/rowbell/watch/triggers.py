"""What stands on a watched table: its triggers, and the function that they run. Pure text.

There are two forms. The *statement* form looks up all rows of a statement in
``rowbell.interest`` with one join over the transition tables. The *row* form does it row by
row; it serves where transition tables cannot: on partitioned tables, whose partitions are
written directly too, and where changes arrive by logical replication, which fires no
statement triggers.

A writer pays in three steps, each only if the one before says so. The trigger's ``WHEN``, which
calls no function: does anybody watch anything, and did a column change that the model declared?
The probe: is one of the rows watched? Only then is it found out what changed, and told.

The function and its triggers depend only on the names of the key columns, the declared columns
and the form, so the function is named after a hash of all that. Tables that are alike share it,
it is never altered, and a trigger is up to date exactly when it runs the function of that name:
two versions of rowbell can stand side by side during a deploy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Final

from rowbell.mapping import qualified, quote_identifier
from rowbell.watch.schema import KEYS_PER_STATEMENT, SOMEBODY_WATCHES, TRIGGERS


class ForEach(StrEnum):
    """For what a trigger runs: PostgreSQL's ``FOR EACH { ROW | STATEMENT }``."""

    ROW = "row"
    STATEMENT = "statement"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column as triggers look at it.

    Attributes:
        name: The column's name in the database.
        cast: The type that it is hashed or compared as, for the few types that PostgreSQL cannot.
    """

    name: str
    cast: str | None = None

    def __str__(self) -> str:
        return f"{self.name}::{self.cast}" if self.cast else self.name

    def of(self, row: str) -> str:
        """The column of that row, as SQL."""
        column = f"{row}.{quote_identifier(self.name)}"
        return f"{column}::{self.cast}" if self.cast else column

    def image(self, row: str) -> str:
        """The column of that row to be compared: as it is, or as its text, byte by byte."""
        return f'{self.of(row)} COLLATE "C"' if self.cast == "text" else self.of(row)


def signature(
    key: tuple[TableColumn, ...], declared: tuple[TableColumn, ...] | None = None
) -> bytes:
    """What a listener must find in ``pg_trigger.tgargs``: whose hashes ring, and what for."""
    return b"".join(argument.encode() + b"\0" for argument in _arguments(key, declared))


def _arguments(key: tuple[TableColumn, ...], declared: tuple[TableColumn, ...] | None) -> list[str]:
    names = () if declared is None else ("", *(column.name for column in declared))
    return [*map(str, key), *names]


def key_hash(row: str, key: tuple[TableColumn, ...]) -> str:
    """The hash of that row's key, as SQL. The reader selects the same of the table's own row."""
    return f"hash_record_extended(ROW({', '.join(column.of(row) for column in key)}), 0)"


_FEW: Final = 1_000
"""How many rows of a statement are looked up one by one before they are joined."""

# LATERAL with OFFSET 0 holds the planner to one index probe a row, and enable_seqscan = off to
# the index: the function's plans are cached, perhaps from a time when `interest` was empty.
# extra_float_digits = 1 lets to_jsonb() show floats exactly, whatever the writer's session says.
_STATEMENT_BODY: Final = """
    ELSE
      -- The first rows by one index probe each, which is all that most statements need. The rest
      -- by a join that the planner chooses, and plans when there are many.
      SELECT count(*), count(i.listener) INTO looked, watched
      FROM (SELECT * FROM old_rows LIMIT {few}) AS o
      LEFT JOIN LATERAL ({interest_of_old}) AS i ON true;
      IF watched = 0 AND looked >= {few} THEN
        SELECT count(*) INTO watched FROM old_rows AS o
        JOIN rowbell.interest AS i ON i.relation = bell AND i.key = {old_key};
      END IF;
      IF watched = 0 THEN
        RETURN NULL;
      ELSIF TG_OP = 'DELETE' THEN
        PERFORM rowbell.ring(bell, array_agg(i.listener), array_agg(i.key))
        FROM old_rows AS o CROSS JOIN LATERAL ({interest_of_old}) AS i;
      ELSE
        -- Grouped instead of joined: the cached plan serves one row and a hundred thousand.
        PERFORM rowbell.ring(bell, array_agg(changed.listener), array_agg(changed.key))
        FROM (SELECT image.listener, image.key
              FROM (SELECT i.listener, i.key, i.columns, 0 AS age, to_jsonb(o.*) AS whole
                    FROM old_rows AS o CROSS JOIN LATERAL ({interest_of_old}) AS i
                    UNION ALL
                    SELECT i.listener, i.key, i.columns, 1 AS age, to_jsonb(n.*) AS whole
                    FROM new_rows AS n CROSS JOIN LATERAL ({interest_of_new}) AS i) AS image
              GROUP BY image.listener, image.key, image.columns
              HAVING count(*) <> 2 OR count(*) FILTER (WHERE image.age = 0) <> 1
                  OR rowbell.differs((array_agg(image.whole ORDER BY image.age))[1],
                                     (array_agg(image.whole ORDER BY image.age))[2],
                                     image.columns)) AS changed
        HAVING count(*) > 0;
      END IF;"""

_ROW_BODY: Final = """
    ELSE
      PERFORM rowbell.ring(bell, array_agg(i.listener), array_agg(i.key))
      FROM ({interest_of_old}) AS i
      WHERE TG_OP = 'DELETE' OR {new_key} <> i.key
         OR rowbell.differs(to_jsonb(OLD), to_jsonb(NEW), i.columns)
      HAVING count(*) > 0;"""

# A writer outside READ COMMITTED sees `interest` as it was when its transaction began, so it
# does not ask but tells everybody. The block's EXCEPTION keeps any trouble of ours from the
# writer: it becomes a WARNING, and everybody re-reads.
_FUNCTION: Final = """
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET extra_float_digits = 1
AS {quote}
#variable_conflict use_variable
DECLARE
  bell CONSTANT oid := {relation};{variables}
BEGIN
  BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
      IF TG_OP = 'TRUNCATE' THEN
        PERFORM rowbell.ring(bell, NULL, NULL);
      ELSE
        PERFORM rowbell.ring(bell, NULL, {all_keys});
      END IF;
    ELSIF TG_OP = 'TRUNCATE' THEN
      PERFORM rowbell.ring(bell, heard.listeners, NULL)
      FROM (SELECT array_agg(DISTINCT i.listener) AS listeners
            FROM rowbell.interest AS i WHERE i.relation = bell) AS heard
      WHERE heard.listeners IS NOT NULL;{body}
    END IF;
  EXCEPTION WHEN OTHERS THEN
    RAISE WARNING USING
      MESSAGE = 'rowbell: the trigger on ' || bell::regclass || ' failed, so all listeners re-read'
                || ' the table: ' || SQLERRM,
      HINT = 'Run install_triggers() again, for example by a migration.';
    BEGIN
      PERFORM rowbell.ring(bell, NULL, NULL);
    EXCEPTION WHEN OTHERS THEN
      RAISE WARNING USING MESSAGE = 'rowbell: nor could the listeners be told: ' || SQLERRM;
    END;
  END;
  RETURN NULL;
END
{quote}"""


def _interest(row: str, key: tuple[TableColumn, ...]) -> str:
    return (
        "SELECT i.listener, i.key, i.columns FROM rowbell.interest AS i "
        f"WHERE i.relation = bell AND i.key = {key_hash(row, key)} OFFSET 0"
    )


@dataclass(frozen=True, slots=True)
class TableTriggers:
    """A table's triggers, as SQL.

    Attributes:
        schema: The table's schema; ``None`` leaves it to the connection's ``search_path``.
        table: The table's name.
        key: The columns of its primary key, sorted by name.
        for_each: The form.
        replicated: Whether they fire for changes that arrive by logical replication as well
            (``ENABLE ALWAYS``).
        declared: The columns worth watching, where the model says so: an UPDATE that leaves
            them alone does not even call the function. ``None``: all. For the row form only.
    """

    schema: str | None
    table: str
    key: tuple[TableColumn, ...]
    for_each: ForEach
    replicated: bool = False
    declared: tuple[TableColumn, ...] | None = None

    @property
    def name(self) -> str:
        """The table's name as SQL, quoted, with its schema if one was given."""
        return qualified(self.schema, self.table)

    @property
    def function_name(self) -> str:
        """The function's name in the schema ``rowbell``: a hash of what it and its triggers do."""
        text = "\n".join([self._function(""), *self._conditions().values()])
        return f"ring_{sha256(text.encode()).hexdigest()[:16]}"

    def create_function(self) -> str:
        """The statement that creates the function."""
        return self._function(f"rowbell.{self.function_name}").strip()

    def create_triggers(self) -> list[str]:
        """The statements that create or replace the triggers."""
        arguments = ", ".join(
            "'" + argument.replace("'", "''") + "'"
            for argument in _arguments(self.key, self.declared)
        )
        run = f"EXECUTE FUNCTION rowbell.{self.function_name}({arguments})"
        statements = [
            f"CREATE OR REPLACE TRIGGER rowbell_{event.lower()} AFTER {event} ON {self.name} "
            f"{condition} {run}"
            for event, condition in self._conditions().items()
        ]
        if self.replicated:
            statements += [
                f"ALTER TABLE {self.name} ENABLE ALWAYS TRIGGER {trigger}" for trigger in TRIGGERS
            ]
        return statements

    def _conditions(self) -> dict[str, str]:
        """For each event, for what its trigger fires and when."""
        update, tables, each = SOMEBODY_WATCHES, "", f"FOR EACH {self.for_each.upper()}"
        if self.for_each is ForEach.STATEMENT:
            tables = "REFERENCING OLD TABLE AS old_rows"
        elif self.declared is None:
            update = f"{SOMEBODY_WATCHES} AND OLD.* *<> NEW.*"
        else:
            columns = dict.fromkeys((*self.key, *self.declared))
            differ = [f"{c.image('OLD')} IS DISTINCT FROM {c.image('NEW')}" for c in columns]
            update = f"({' OR '.join(differ)}) AND {SOMEBODY_WATCHES}"
        new_rows = " NEW TABLE AS new_rows" if tables else ""
        return {
            "UPDATE": f"{tables}{new_rows} {each} WHEN ({update})",
            "DELETE": f"{tables} {each} WHEN ({SOMEBODY_WATCHES})",
            "TRUNCATE": f"FOR EACH STATEMENT WHEN ({SOMEBODY_WATCHES})",
        }

    def _function(self, name: str) -> str:
        quote = "$rowbell$"
        while any(quote in column.name for column in self.key):
            quote = f"{quote[:-1]}_$"
        if self.for_each is ForEach.ROW:
            return _FUNCTION.format(
                name=name,
                quote=quote,
                relation="coalesce(pg_partition_root(TG_RELID), TG_RELID)",
                all_keys=f"ARRAY[{key_hash('OLD', self.key)}]",
                variables="",
                body=_ROW_BODY.format(
                    interest_of_old=_interest("OLD", self.key),
                    new_key=key_hash("NEW", self.key),
                ),
            )
        return _FUNCTION.format(
            name=name,
            quote=quote,
            relation="TG_RELID",
            all_keys=(
                f"ARRAY(SELECT {key_hash('o', self.key)} FROM old_rows AS o "
                f"LIMIT {KEYS_PER_STATEMENT + 1})"
            ),
            variables="\n  looked bigint;\n  watched bigint;",
            body=_STATEMENT_BODY.format(
                few=_FEW,
                old_key=key_hash("o", self.key),
                interest_of_old=_interest("o", self.key),
                interest_of_new=_interest("n", self.key),
            ),
        )
