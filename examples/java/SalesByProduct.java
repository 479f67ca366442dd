import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * How many of each product are sold, from the events of the order service.
 *
 * <p>Each event is counted once, although the log may hold it twice and this process may be killed at any moment:
 *
 * <ul>
 *   <li>Within a partition, an event whose ce_id is not above the last one counted is a repeat.
 *   <li>The counts, the last ce_id and the next offset of each partition are saved together, in one file that is
 *       replaced as a whole. With a database they would be one transaction. Offsets committed to Kafka are not used.
 * </ul>
 */
public final class SalesByProduct {
    private static final String TOPIC = "orders";
    private static final String SOURCE = "/orders";
    private static final int KNOWN_VERSION = 1;
    private static final ObjectMapper JSON = new ObjectMapper();

    /** Where the reading of a partition stands. */
    public record Place(long nextOffset, long lastPosition) {}

    /** Everything that must survive this process. */
    public record State(Map<Integer, Place> places, Map<String, Long> sold) {}

    private final Path file;
    private final State state;

    private SalesByProduct(Path file) throws IOException {
        this.file = file;
        this.state =
                Files.exists(file)
                        ? JSON.readValue(file.toFile(), State.class)
                        : new State(new TreeMap<>(), new TreeMap<>());
    }

    public static void main(String[] arguments) throws IOException {
        if (arguments.length != 2) {
            System.err.println("usage: java -cp 'lib/*' SalesByProduct.java BOOTSTRAP_SERVERS STATE_FILE");
            System.exit(2);
        }
        try {
            new SalesByProduct(Path.of(arguments[1])).run(arguments[0]);
        } catch (NewerVersion error) {
            System.err.println("sales: " + error.getMessage());
            System.exit(1);
        }
    }

    private void run(String servers) throws IOException, NewerVersion {
        Map<String, Object> settings =
                Map.of(
                        "bootstrap.servers", servers,
                        "enable.auto.commit", false,
                        // If the offset is not in the log any more: what was counted is known by its ce_id.
                        "auto.offset.reset", "earliest");
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings, bytes, bytes)) {
            List<TopicPartition> partitions = new ArrayList<>();
            for (PartitionInfo info : consumer.partitionsFor(TOPIC)) {
                partitions.add(new TopicPartition(TOPIC, info.partition()));
            }
            consumer.assign(partitions);
            for (TopicPartition partition : partitions) {
                consumer.seek(partition, place(partition.partition()).nextOffset());
            }
            while (true) {
                var records = consumer.poll(Duration.ofSeconds(1));
                for (ConsumerRecord<byte[], byte[]> record : records) {
                    read(record);
                }
                if (!records.isEmpty()) {
                    save();
                    System.out.println(JSON.writeValueAsString(state.sold()));
                }
            }
        }
    }

    private Place place(int partition) {
        return state.places().getOrDefault(partition, new Place(0, 0));
    }

    /** Counts the event, unless it is a repeat, foreign, or of a type that does not matter here. */
    private void read(ConsumerRecord<byte[], byte[]> record) throws IOException, NewerVersion {
        Place before = place(record.partition());
        long position = position(record);
        if (position > before.lastPosition()) {
            count(record);
        }
        long last = Math.max(position, before.lastPosition());
        state.places().put(record.partition(), new Place(record.offset() + 1, last));
    }

    /** The event's number among all of its publisher; 0 for a record that the publisher did not write. */
    private static long position(ConsumerRecord<byte[], byte[]> record) {
        String id = header(record, "ce_id");
        boolean isEvent = SOURCE.equals(header(record, "ce_source")) && record.value() != null;
        return isEvent && id.matches("[1-9][0-9]{0,17}") ? Long.parseLong(id) : 0;
    }

    private void count(ConsumerRecord<byte[], byte[]> record) throws IOException, NewerVersion {
        String type = header(record, "ce_type");
        int sign =
                switch (type) {
                    case "order.placed" -> 1;
                    case "order.cancelled" -> -1;
                    default -> 0;
                };
        if (sign == 0) {
            return;
        }
        String version = header(record, "ce_dataversion");
        if (!version.matches("[1-9][0-9]{0,8}") || Integer.parseInt(version) > KNOWN_VERSION) {
            throw new NewerVersion(
                    "offset %d of partition %d has %s in schema version %s, and this program knows version %d"
                            .formatted(record.offset(), record.partition(), type, version, KNOWN_VERSION));
        }
        JsonNode order = JSON.readTree(record.value()); // fields that are not known here are left alone
        state.sold().merge(order.required("product").asText(), sign * order.required("quantity").asLong(), Long::sum);
    }

    private static String header(ConsumerRecord<byte[], byte[]> record, String name) {
        Header header = record.headers().lastHeader(name);
        return header == null || header.value() == null ? "" : new String(header.value(), StandardCharsets.UTF_8);
    }

    /** All of it, or, if the process or the machine stops, what the file held before. */
    private void save() throws IOException {
        Path unfinished = Path.of(file + ".unfinished");
        try (FileChannel channel =
                FileChannel.open(
                        unfinished,
                        StandardOpenOption.CREATE,
                        StandardOpenOption.WRITE,
                        StandardOpenOption.TRUNCATE_EXISTING)) {
            ByteBuffer bytes = ByteBuffer.wrap(JSON.writeValueAsBytes(state));
            while (bytes.hasRemaining()) {
                channel.write(bytes);
            }
            channel.force(true);
        }
        Files.move(unfinished, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    }

    /** An event that this program would misread. Nothing of its batch is saved, so a newer program continues there. */
    private static final class NewerVersion extends Exception {
        NewerVersion(String message) {
            super(message);
        }
    }
}
