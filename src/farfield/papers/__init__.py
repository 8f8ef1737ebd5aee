"""The catalogue: every paper is one record (``P015.toml``), everything shown about it is derived from records and results.

`record` is the schema and its reader, `status` says without importing anything what is planned, built or decided, `index` packs all
of it into one file, `search` answers plain-language questions, `catalogue` is what the command line reads.
"""
