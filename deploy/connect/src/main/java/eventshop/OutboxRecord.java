package eventshop;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.config.ConfigDef.Importance;
import org.apache.kafka.common.config.ConfigDef.Type;
import org.apache.kafka.common.config.types.Password;
import org.apache.kafka.connect.connector.ConnectRecord;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.errors.ConnectException;
import org.apache.kafka.connect.errors.DataException;
import org.apache.kafka.connect.header.ConnectHeaders;
import org.apache.kafka.connect.transforms.Transformation;

/**
 * Turns an inserted row of the outbox into the record that the polling relay would send, byte for byte: see
 * eventspine/event.py, message().
 *
 * <p>It refuses a hole. Positions have no gaps, so the next one is the last one plus 1. A higher position means
 * that the events between are not in the topic: then the task fails, and publishes nothing. What was published
 * before the task began is in the table relay. The worker writes it there some moments after Debezium has
 * published it, so this waits for it for a while.
 */
public class OutboxRecord<R extends ConnectRecord<R>> implements Transformation<R> {
    private static final String PUBLISHED = "SELECT greatest(position, captured) FROM relay WHERE source = ?";
    private static final DateTimeFormatter TIME = DateTimeFormatter.ofPattern("yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'");
    private static final TypeReference<LinkedHashMap<String, String>> HEADERS = new TypeReference<>() {};
    private static final ConfigDef CONFIG = new ConfigDef()
            .define("source", Type.STRING, Importance.HIGH, "the source of the events, as in the table relay")
            .define("database.url", Type.STRING, Importance.HIGH, "jdbc:postgresql://host:port/database")
            .define("database.user", Type.STRING, Importance.HIGH, "a role that may read the table relay")
            .define("database.password", Type.PASSWORD, "", Importance.HIGH, "its password")
            .define("wait.ms", Type.LONG, 60_000L, Importance.LOW, "how long to wait for the worker's word");

    private final ObjectMapper json = new ObjectMapper();
    private Map<String, Object> config;
    private String source;
    private long last = -1;

    @Override
    public void configure(Map<String, ?> given) {
        config = CONFIG.parse(given);
        source = (String) config.get("source");
    }

    @Override
    public R apply(R record) {
        if (record.topic().startsWith("__debezium-heartbeat")) {
            return record; // without it Connect would not save how far the slot has been read
        }
        Struct change = (Struct) record.value();
        if (change == null || !"c".equals(change.getString("op"))) {
            throw new DataException("a change of the outbox that is not an insert: " + record);
        }
        Struct row = change.getStruct("after");
        long position = row.getInt64("position");
        refuseHole(position);
        ConnectHeaders headers = new ConnectHeaders();
        headers(row, position).forEach(headers::addString);
        return record.newRecord(
                row.getString("topic"), null,
                Schema.STRING_SCHEMA, row.getString("key"),
                Schema.STRING_SCHEMA, row.getString("data"),
                record.timestamp(), headers);
    }

    private Map<String, String> headers(Struct row, long position) {
        Map<String, String> headers = new LinkedHashMap<>();
        headers.put("ce_specversion", "1.0");
        headers.put("ce_id", Long.toString(position));
        headers.put("ce_source", source);
        headers.put("ce_type", row.getString("type"));
        OffsetDateTime time = OffsetDateTime.parse(row.getString("time"));
        headers.put("ce_time", time.withOffsetSameInstant(ZoneOffset.UTC).format(TIME));
        headers.put("ce_subject", row.getString("key"));
        headers.put("ce_dataversion", row.getInt32("schema_version").toString());
        headers.put("content-type", "application/json");
        String others = row.getString("headers");
        if (others != null) {
            try {
                Map<String, String> found = json.readValue(others, HEADERS);
                if (found != null) {
                    headers.putAll(found);
                }
            } catch (JsonProcessingException error) {
                throw new DataException("the headers of position " + position + " are not strings", error);
            }
        }
        return headers;
    }

    private void refuseHole(long position) {
        long deadline = System.nanoTime() + (long) config.get("wait.ms") * 1_000_000;
        while (last < 0 || position > last + 1) {
            SQLException away = null;
            try {
                last = published();
            } catch (SQLException error) {
                away = error;
            }
            if (last >= 0 && position <= last + 1) {
                break;
            }
            if (System.nanoTime() > deadline) {
                throw away == null ? hole(position) : new ConnectException("cannot ask the database", away);
            }
            pause();
        }
        last = position;
    }

    private DataException hole(long position) {
        return new DataException("position " + position + " of " + source + " would leave a hole: only " + last
                + " is known to be in the topic, and the replication slot does not have the events between; run"
                + " `shop cdc begin`, which sends them from the outbox");
    }

    long published() throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", (String) config.get("database.user"));
        properties.setProperty("password", ((Password) config.get("database.password")).value());
        // Or a connection that was lost without a word would be waited for without an end. Seconds.
        properties.setProperty("connectTimeout", "10");
        properties.setProperty("socketTimeout", "10");
        try (Connection database = DriverManager.getConnection((String) config.get("database.url"), properties);
                PreparedStatement asking = database.prepareStatement(PUBLISHED)) {
            asking.setString(1, source);
            try (ResultSet found = asking.executeQuery()) {
                return found.next() ? found.getLong(1) : 0;
            }
        }
    }

    private static void pause() {
        try {
            Thread.sleep(200);
        } catch (InterruptedException error) {
            throw new ConnectException("stopped while waiting for the worker", error);
        }
    }

    @Override
    public ConfigDef config() {
        return CONFIG;
    }

    @Override
    public void close() {}
}
