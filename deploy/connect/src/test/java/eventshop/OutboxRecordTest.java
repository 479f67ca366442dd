package eventshop;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.sql.SQLException;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.errors.ConnectException;
import org.apache.kafka.connect.errors.DataException;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.source.SourceRecord;
import org.apache.kafka.connect.storage.StringConverter;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** With records as Debezium gives them, and without a database. tests/cdc has all parts. */
class OutboxRecordTest {
    private static final Schema ROW = SchemaBuilder.struct()
            .field("position", Schema.INT64_SCHEMA)
            .field("topic", Schema.STRING_SCHEMA)
            .field("key", Schema.STRING_SCHEMA)
            .field("type", Schema.STRING_SCHEMA)
            .field("schema_version", Schema.INT32_SCHEMA)
            .field("time", Schema.STRING_SCHEMA)
            .field("data", Schema.STRING_SCHEMA)
            .field("headers", Schema.OPTIONAL_STRING_SCHEMA)
            .optional()
            .build();
    private static final Schema CHANGE = SchemaBuilder.struct()
            .field("op", Schema.STRING_SCHEMA)
            .field("after", ROW)
            .build();
    private static final String TIME = "2026-11-26T12:00:00.123456Z";
    private static final Map<String, ?> SOURCE = Map.of("source", "/orders");
    private static final Map<String, ?> POSITION = Map.of("position", 1);
    private static final long MOMENT = 1_795_694_400_123L;

    /** Knows what is in the topic without a database: each look finds the next of these, and the last one again. */
    private static final class Told extends OutboxRecord<SourceRecord> {
        private final Deque<Long> published;
        private int looks;

        Told(long wait, Long... published) {
            this.published = new ArrayDeque<>(List.of(published));
            configure(Map.of(
                    "source", "/orders", "database.url", "jdbc:none", "database.user", "nobody",
                    "wait.ms", Long.toString(wait)));
        }

        @Override
        long published() throws SQLException {
            looks++;
            if (published.isEmpty()) {
                throw new SQLException("the database is away");
            }
            return published.size() > 1 ? published.remove() : published.element();
        }
    }

    private static Told after(long published) {
        return new Told(0, published);
    }

    private static Struct row(long position, String time, String headers) {
        return new Struct(ROW)
                .put("position", position)
                .put("topic", "orders")
                .put("key", "Käse 🧀")
                .put("type", "order.placed")
                .put("schema_version", 2)
                .put("time", time)
                .put("data", "{\"id\": 1.0, \"product\": \"\\\"Käse\\\" 🧀\"}")
                .put("headers", headers);
    }

    private static SourceRecord change(Object value) {
        return new SourceRecord(
                SOURCE, POSITION, "orders_outbox.public.outbox", 0, null, null, CHANGE, value, MOMENT);
    }

    private static SourceRecord insert(Struct row) {
        return change(new Struct(CHANGE).put("op", "c").put("after", row));
    }

    private static SourceRecord insert(long position) {
        return insert(row(position, TIME, null));
    }

    /** As Connect would write them, in their order. */
    private static Map<String, byte[]> bytes(SourceRecord record) {
        Map<String, byte[]> found = new LinkedHashMap<>();
        StringConverter converter = new StringConverter();
        converter.configure(Map.of(), false);
        for (Header each : record.headers()) {
            byte[] value = converter.fromConnectHeader(record.topic(), each.key(), each.schema(), each.value());
            assertTrue(!found.containsKey(each.key()), each.key());
            found.put(each.key(), value);
        }
        converter.close();
        return found;
    }

    private static void assertHeaders(SourceRecord record, String... namesAndValues) {
        Map<String, byte[]> found = bytes(record);
        List<String> names = List.copyOf(found.keySet());
        for (int at = 0; at < namesAndValues.length; at += 2) {
            assertEquals(namesAndValues[at], names.get(at / 2));
            assertArrayEquals(
                    namesAndValues[at + 1].getBytes(UTF_8), found.get(names.get(at / 2)), names.get(at / 2));
        }
        assertEquals(namesAndValues.length / 2, names.size(), names.toString());
    }

    @Test
    void theRecordIsWhatThePollingRelaySends() {
        SourceRecord sent = after(7).apply(insert(
                row(8, TIME, "{\"traceparent\": \"00-0af7-01\", \"z\": \"1.0\", \"a\": \"\\\"Käse\\\" 🧀\\t\", \"e\": \"\"}")));
        assertEquals("orders", sent.topic());
        assertNull(sent.kafkaPartition(), "the producer chooses it by the key");
        assertEquals(Schema.STRING_SCHEMA, sent.keySchema());
        assertEquals("Käse 🧀", sent.key());
        assertEquals(Schema.STRING_SCHEMA, sent.valueSchema());
        assertEquals("{\"id\": 1.0, \"product\": \"\\\"Käse\\\" 🧀\"}", sent.value());
        assertEquals(MOMENT, sent.timestamp());
        assertEquals(SOURCE, sent.sourcePartition());
        assertEquals(POSITION, sent.sourceOffset());
        assertHeaders(
                sent,
                "ce_specversion", "1.0",
                "ce_id", "8",
                "ce_source", "/orders",
                "ce_type", "order.placed",
                "ce_time", TIME,
                "ce_subject", "Käse 🧀",
                "ce_dataversion", "2",
                "content-type", "application/json",
                "traceparent", "00-0af7-01",
                "z", "1.0",
                "a", "\"Käse\" 🧀\t",
                "e", "");
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "null", "{}"})
    void withoutHeadersOfItsOwnARecordHasTheEightOthers(String headers) {
        SourceRecord sent = after(0).apply(insert(row(1, TIME, headers.isEmpty() ? null : headers)));
        assertEquals(8, bytes(sent).size());
    }

    @Test
    void aHeaderThatIsNullStaysNull() {
        Map<String, byte[]> found = bytes(after(0).apply(insert(row(1, TIME, "{\"a\": null, \"b\": \"null\"}"))));
        assertTrue(found.containsKey("a"));
        assertNull(found.get("a"));
        assertArrayEquals("null".getBytes(UTF_8), found.get("b"));
    }

    @Test
    void headersThatAreNotTextsAreRefused() {
        Told told = after(0);
        DataException refused =
                assertThrows(DataException.class, () -> told.apply(insert(row(1, TIME, "{\"a\": {\"b\": 1}}"))));
        assertEquals("the headers of position 1 are not strings", refused.getMessage());
    }

    @ParameterizedTest
    @CsvSource({
        "2026-11-26T12:00:00Z,               2026-11-26T12:00:00.000000Z",
        "2026-11-26T12:00:00.5Z,             2026-11-26T12:00:00.500000Z",
        "2026-11-26T12:00:00.000001Z,        2026-11-26T12:00:00.000001Z",
        "2026-11-26T12:00:00.120000+02:00,   2026-11-26T10:00:00.120000Z",
        "2026-12-31T23:30:00-01:00,          2027-01-01T00:30:00.000000Z",
    })
    void aTimeIsInUtcWithSixDigits(String time, String wanted) {
        assertArrayEquals(
                wanted.getBytes(UTF_8),
                bytes(after(0).apply(insert(row(1, time, null)))).get("ce_time"));
    }

    @Test
    void positionsWithoutAGapAskTheDatabaseOnce() {
        Told told = after(4);
        for (long position = 5; position <= 9; position++) {
            told.apply(insert(position));
        }
        assertEquals(1, told.looks);
    }

    @Test
    void aHoleIsRefused() {
        Told told = after(4);
        told.apply(insert(5));
        DataException refused = assertThrows(DataException.class, () -> told.apply(insert(7)));
        assertTrue(refused.getMessage().startsWith("position 7 of /orders would leave a hole: only 4 is known"));
        assertTrue(refused.getMessage().endsWith("run `shop cdc begin`, which sends them from the outbox"));
    }

    @Test
    void aHoleBeforeTheFirstRecordIsRefused() {
        Told told = after(4);
        assertThrows(DataException.class, () -> told.apply(insert(6)));
    }

    /** Readers drop repeats. Debezium repeats after a kill, and then goes on without a gap. */
    @Test
    void aRepeatIsPassedOnAndWhatFollowsItToo() {
        Told told = after(7);
        for (long position : new long[] {8, 9, 6, 7, 8, 9, 10}) {
            assertArrayEquals(
                    Long.toString(position).getBytes(UTF_8),
                    bytes(told.apply(insert(position))).get("ce_id"));
        }
    }

    @Test
    void afterARepeatAHigherPositionPassesOnlyIfTheDatabaseKnowsOfTheOneBeforeIt() {
        Told told = new Told(0, 9L);
        told.apply(insert(3));
        told.apply(insert(10));
        assertThrows(DataException.class, () -> told.apply(insert(12)));
    }

    /** The worker may have followed the topic only up to some moments ago. */
    @Test
    void itWaitsForTheWorkersWord() {
        Told told = new Told(60_000, 3L, 3L, 4L);
        told.apply(insert(5));
        assertEquals(3, told.looks);
    }

    @Test
    void withoutTheDatabaseNothingIsSent() {
        Told told = new Told(0);
        ConnectException failed = assertThrows(ConnectException.class, () -> told.apply(insert(1)));
        assertEquals("cannot ask the database", failed.getMessage());
    }

    @Test
    void aHeartbeatIsLetThroughAsItIs() {
        Told told = new Told(0);
        SourceRecord heartbeat = new SourceRecord(
                SOURCE, POSITION, "__debezium-heartbeat.orders_outbox", 0, null, null, null, null, MOMENT);
        assertSame(heartbeat, told.apply(heartbeat));
        assertEquals(0, told.looks);
    }

    @ParameterizedTest
    @ValueSource(strings = {"u", "d", "r", "t", "m"})
    void anyChangeButAnInsertIsRefused(String op) {
        Told told = after(0);
        SourceRecord changed = change(new Struct(CHANGE).put("op", op).put("after", row(1, TIME, null)));
        assertThrows(DataException.class, () -> told.apply(changed));
    }

    @Test
    void aTombstoneIsRefused() {
        Told told = after(0);
        assertThrows(DataException.class, () -> told.apply(change(null)));
    }
}
