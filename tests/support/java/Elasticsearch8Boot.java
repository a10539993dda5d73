import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;

/** One Elasticsearch node out of Maven's jars: Elasticsearch8Boot HOME HTTP_PORT TRANSPORT_PORT [setting=value ...] */
public class Elasticsearch8Boot {
    public static void main(String[] given) throws Exception {
        LogConfigurator.loadLog4jPlugins();
        LogConfigurator.setNodeName("one");
        LogConfigurator.configureESLogging();
        Settings.Builder settings = Settings.builder().put("path.home", given[0]).put("cluster.name", given[0])
            .put("node.name", "one").put("network.host", "127.0.0.1").put("http.port", given[1])
            .put("transport.port", given[2]).put("discovery.type", "single-node")
            .put("cluster.routing.allocation.disk.threshold_enabled", false);
        for (int i = 3; i < given.length; i++) {
            int sign = given[i].indexOf('=');
            settings.put(given[i].substring(0, sign), given[i].substring(sign + 1));
        }
        Environment environment =
            InternalSettingsPreparer.prepareEnvironment(settings.build(), Map.of(), Path.of(given[0], "config"), () -> "one");
        PluginsLoader plugins = PluginsLoader.createPluginsLoader(PluginsLoader.loadModulesBundles(environment.modulesDir()),
            PluginsLoader.loadPluginsBundles(environment.pluginsDir()), Map.of());
        Node node = new Node(environment, plugins);
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
