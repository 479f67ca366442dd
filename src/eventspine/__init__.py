"""eventspine: an event pipeline on PostgreSQL and a log. It loses no event and applies none twice.

    action ─▶ outbox.transaction ─▶ relay ─▶ EventLog ─▶ consumer ─▶ handler
              (rows + events in      (in       (Kafka,     (effects and checkpoint in
               one commit)            order)    or a table)  one commit)

It does not depend on any service. `docs/architecture.md` explains it step by step.
"""
