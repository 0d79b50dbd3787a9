"""The `runkit` command."""
