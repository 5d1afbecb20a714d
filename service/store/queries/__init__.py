"""Every query of the project, one file a table. The first argument is always the transaction that it runs in."""
