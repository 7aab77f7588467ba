"""What LiteLLM calls of prisma's command: ``migrate deploy``, which applies the SQL of every migration that is not
applied yet, and notes it as prisma does. The command's own engine comes from binaries.prisma.sh alone.

Run with the Python of LiteLLM's environment, in the folder that has ``migrations``. Every call is added to the file
PRISMA_CALLS.
"""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

LEDGER = """CREATE TABLE IF NOT EXISTS _prisma_migrations (
    id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL, finished_at timestamptz,
    migration_name varchar(255) NOT NULL, logs text, rolled_back_at timestamptz,
    started_at timestamptz NOT NULL DEFAULT now(), applied_steps_count integer NOT NULL DEFAULT 0)"""


def deploy() -> None:
    """Apply what is not applied."""
    import psycopg

    url = urlsplit(os.environ["DATABASE_URL"])
    schema = dict(parse_qsl(url.query)).get("schema", "public")
    with psycopg.connect(url._replace(query="").geturl(), autocommit=True) as database:
        database.execute(f"SET search_path TO {schema}")
        database.execute(LEDGER)
        applied = {name for (name,) in database.execute("SELECT migration_name FROM _prisma_migrations")}
        for folder in sorted(one for one in Path("migrations").iterdir() if one.is_dir()):
            if folder.name not in applied:
                database.execute((folder / "migration.sql").read_bytes())
                database.execute(
                    "INSERT INTO _prisma_migrations (id, checksum, migration_name, finished_at, applied_steps_count) "
                    "VALUES (%s, '', %s, now(), 1)",
                    (str(uuid.uuid4()), folder.name),
                )
                print(f"Applying migration `{folder.name}`")


if __name__ == "__main__":
    with open(os.environ["PRISMA_CALLS"], "a", encoding="utf-8") as calls:
        print(*sys.argv[1:], file=calls)
    if sys.argv[1:3] == ["migrate", "deploy"]:
        deploy()
