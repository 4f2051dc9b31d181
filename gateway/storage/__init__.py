"""Where receipts, the log and keys are kept: one SQLite file, one writer thread, any number of readers.

    startup    `open_log`: lock, check what is stored, start the writer
    sequencer  the one writer of the log, a thread around `writer`; `blobs` are jobs for it
    reads      everything that is asked of the file, on read-only connections
    writes     what the command line writes beside a running gateway

This package imports neither SQLModel nor SQLAlchemy, but for `tables`, which nothing that serves imports.
"""
