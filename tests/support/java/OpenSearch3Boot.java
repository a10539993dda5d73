import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import org.opensearch.Version;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.ingest.AbstractProcessor;
import org.opensearch.ingest.IngestDocument;
import org.opensearch.ingest.Processor;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.plugins.IngestPlugin;
import org.opensearch.plugins.Plugin;
import org.opensearch.plugins.PluginInfo;
import org.opensearch.transport.Netty4ModulePlugin;

/** One OpenSearch node out of Maven's jars: OpenSearch3Boot HOME HTTP_PORT TRANSPORT_PORT [setting=value ...] */
public class OpenSearch3Boot extends Node {
    OpenSearch3Boot(Environment environment, List<PluginInfo> plugins) {
        super(environment, plugins, true);
    }

    /** Maven's jars come without an ingest processor: {"stamp": {"field": "..."}} sets a field to true. */
    public static class Stamp extends Plugin implements IngestPlugin {
        @Override
        public Map<String, Processor.Factory> getProcessors(Processor.Parameters parameters) {
            return Map.of("stamp", (factories, tag, description, config) -> {
                String field = (String) config.remove("field");
                return new AbstractProcessor(tag, description) {
                    @Override
                    public IngestDocument execute(IngestDocument document) {
                        document.setFieldValue(field, true);
                        return document;
                    }

                    @Override
                    public String getType() {
                        return "stamp";
                    }
                };
            });
        }
    }

    public static void main(String[] given) throws Exception {
        Settings.Builder settings = Settings.builder().put("path.home", given[0]).put("cluster.name", given[0])
            .put("node.name", "one").put("network.host", "127.0.0.1").put("http.port", given[1])
            .put("transport.port", given[2]).put("discovery.type", "single-node").put("node.max_local_storage_nodes", 1)
            .put("transport.type", "netty4").put("http.type", "netty4")
            .put("cluster.routing.allocation.disk.threshold_enabled", false);
        for (int i = 3; i < given.length; i++) {
            int sign = given[i].indexOf('=');
            settings.put(given[i].substring(0, sign), given[i].substring(sign + 1));
        }
        Environment environment =
            InternalSettingsPreparer.prepareEnvironment(settings.build(), Map.of(), Path.of(given[0], "config"), () -> "one");
        PluginInfo netty = new PluginInfo("transport-netty4", "-", "NA", Version.CURRENT, "21",
            Netty4ModulePlugin.class.getName(), null, List.of(), false);
        PluginInfo stamp = new PluginInfo("stamp", "-", "NA", Version.CURRENT, "21",
            Stamp.class.getName(), null, List.of(), false);
        Node node = new OpenSearch3Boot(environment, List.of(netty, stamp));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                node.close();
            } catch (Exception ignored) {
                // it ends anyway
            }
        }));
        node.start();
        new CountDownLatch(1).await();
    }
}
