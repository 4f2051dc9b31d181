"""The DDL text, the SQLModel tables and the values agree."""

from __future__ import annotations

import re
import subprocess
import sys

import msgspec
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlmodel import SQLModel

from gateway.model.entry import ReceiptRow
from gateway.storage import schema, tables


def _normal(statement: str) -> str:
    return re.sub(r"\s*([(),])\s*", r"\1", " ".join(statement.split()))


def test_ddl_is_what_sqlmodel_emits() -> None:
    """The text that start-up runs creates exactly the tables and indexes of the models, in the same order."""
    emitted = []
    for name in [m.__tablename__ for m in vars(tables).values() if isinstance(m, type) and issubclass(m, SQLModel)]:
        if isinstance(name, str) and name in SQLModel.metadata.tables:
            table = SQLModel.metadata.tables[name]
            emitted.append(CreateTable(table))
            emitted += [CreateIndex(index) for index in sorted(table.indexes, key=lambda index: str(index.name))]
    texts = [_normal(str(element.compile(dialect=sqlite.dialect()))) for element in emitted]
    assert texts == [_normal(statement) for statement in (*schema.DDL, *schema.LEDGER_DDL)]
    assert len(texts) > 10


def test_receipt_columns_are_those_of_the_row() -> None:
    """Every field of a receipt's row has its column, so that a new field cannot be forgotten."""
    columns = set(SQLModel.metadata.tables["receipt"].columns.keys())
    assert columns == {
        "idx",
        "intent",
        "envelope",
        "evidence",
        *(field.name for field in msgspec.structs.fields(ReceiptRow)),
    }


def test_serving_imports_no_orm() -> None:
    """Neither the writer nor the readers import SQLModel or SQLAlchemy."""
    code = (
        "import sys, gateway.storage.startup, gateway.storage.reads, gateway.storage.writes, gateway.storage.blobs;"
        "print([m for m in sys.modules if m.split('.')[0] in ('sqlmodel', 'sqlalchemy', 'pydantic')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
