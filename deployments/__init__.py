"""The Ray Serve side of the runtime, kept thin: admit, call the engine, stream, report."""
