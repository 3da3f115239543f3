"""The ``speech`` command, one file a verb group."""
