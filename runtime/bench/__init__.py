"""Load generators and their reports: the same code for the command line, tests and GPU runs."""
