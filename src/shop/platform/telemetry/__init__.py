"""What a process shows of itself: metrics, and the health of a worker.

`settings` and `process` import nothing that is not needed when all of it is switched off.
"""
