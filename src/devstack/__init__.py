"""Everything behind `shop up`: real servers as child processes, supervised, and nothing installed.

`up` puts it together; `supervisor` keeps servers running; `process` is one child; `postgres` is
PostgreSQL from a wheel. Production uses none of this.
"""
