"""``speech accept``: everything that only the owner of a machine and its weights can find out.

Each part is a ``Section`` of verdicts and figures; together they are one JSON object and one
page, to be attached to a report.
"""
