"""Run by Alembic: applies the migrations on the connection that `database.upgrade` hands over, inside its transaction.

To write a new one, add a numbered file to `versions/` and say in its first line whether it runs before the new version
is rolled out (it only adds) or after (it removes what the old version still used). The latter also writes into the
table `compatibility` the oldest migration whose version can go on; older ones then refuse to start.
"""

from alembic import context

from instantid_serve.service.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
