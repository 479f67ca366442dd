"""eventspine: an event pipeline on PostgreSQL and a log, which loses nothing and repeats nothing.

    action ─▶ outbox.transaction ─▶ relay ─▶ EventLog ─▶ consumer ─▶ handler
              (rows + events in      (in       (Kafka,     (effects and checkpoint in
               one commit)            order)    or a table)  one commit)

It knows nothing of any shop. `docs/architecture.md` walks through it.
"""
