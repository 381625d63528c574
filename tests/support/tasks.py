"""Tasks of several tenants: the same table in several schemas."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.schema import ForeignKey

from support.observed import execute


class TaskBase(DeclarativeBase):
    pass


class Task(TaskBase):
    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="new")
    version: Mapped[int] = mapped_column(default=1)
    tenant: Mapped[str] = mapped_column(default="a")
    deleted: Mapped[bool] = mapped_column(default=False)
    steps: Mapped[list[Step]] = relationship()
    __mapper_args__ = {"version_id_col": version}


class Step(TaskBase):
    __tablename__ = "steps"
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))


async def set_state(engine: AsyncEngine, state: str, schema: str = "public") -> None:
    await execute(
        engine, f"UPDATE {schema}.tasks SET state = '{state}', version = version + 1 WHERE id = 1"
    )
