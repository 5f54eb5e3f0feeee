"""Schema migrations: each service has its own Alembic history, and its own version table, in its own database."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from ewallet.plumbing.database import open_database

_PACKAGE = Path(__file__).parents[1]


class SchemaIsNewer(Exception):
    """The database was migrated by a newer program than this one."""


def migrate(service: str, url: str) -> bool:
    """Bring a service's database to the schema of this program; True where anything had to be done.

    SchemaIsNewer: the database is ahead of this program.
    """
    database = open_database(url, service)
    try:
        return database.transact(lambda connection: _upgrade(connection, service))
    finally:
        database.close()


def _upgrade(connection: Connection, service: str) -> bool:
    config = Config()
    config.set_main_option("script_location", str(_PACKAGE / "plumbing" / "alembic"))
    config.set_main_option("version_locations", str(_PACKAGE / service / "migrations" / "versions"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table(service)
    script = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection, opts={"version_table": version_table(service)}).get_current_heads()
    if set(present) == set(script.get_heads()):
        return False
    known = {revision.revision for revision in script.walk_revisions()}
    if unknown := set(present) - known:
        raise SchemaIsNewer(
            f"The {service} database is at schema {', '.join(sorted(unknown))}, which this version of ewallet does not "
            "know: start the newer version, or restore a backup."
        )
    command.upgrade(config, "heads")
    return True


def version_table(service: str) -> str:
    """The table in which Alembic keeps a service's version; all services may share one database."""
    return f"{service}_schema_version"
