"""Run by Alembic: applies a service's migrations on the connection that ``plumbing.migrations`` hands over."""

from alembic import context

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    version_table=attributes["version_table"],
    # SQLite cannot alter most of a table in place; batch mode rebuilds it.
    render_as_batch=True,
)
context.run_migrations()
