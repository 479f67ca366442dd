"""The parts of `shop up`: real servers as supervised child processes, with nothing installed.

`up` combines the parts; `supervisor` keeps servers running; `process` is one child; `postgres` is
PostgreSQL from a wheel. Production does not use this package.
"""
