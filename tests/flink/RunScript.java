import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;

/** Runs a Flink SQL script on the local MiniCluster and waits for its jobs: RunScript SCRIPT SECONDS. */
public class RunScript {
  static final java.util.regex.Pattern SET = java.util.regex.Pattern.compile("SET '([^']*)' = '([^']*)'");

  public static void main(String[] args) throws Exception {
    Configuration configuration = new Configuration();
    configuration.setString("parallelism.default", "2");
    configuration.setString("taskmanager.numberOfTaskSlots", "4");
    configuration.setString("table.local-time-zone", "UTC");
    configuration.setString("table.exec.source.idle-timeout", "2 s");
    TableEnvironment tables = TableEnvironment.create(
        EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(configuration).build());
    long seconds = Long.parseLong(args[1]);
    for (String statement : split(Files.readString(Path.of(args[0])))) {
      java.util.regex.Matcher set = SET.matcher(statement);
      if (set.matches()) {
        tables.getConfig().set(set.group(1), set.group(2));
        continue;
      }
      TableResult result = tables.executeSql(statement);
      if (result.getJobClient().isPresent()) {
        result.getJobClient().get().getJobExecutionResult().get(seconds, TimeUnit.SECONDS);
      }
    }
    System.out.println("done");
    System.exit(0);
  }

  /** Statements end with a semicolon at the end of a line; a statement set ends with END. */
  static java.util.List<String> split(String script) {
    java.util.List<String> statements = new java.util.ArrayList<>();
    StringBuilder current = new StringBuilder();
    boolean set = false;
    for (String line : script.split("\n")) {
      if (line.strip().startsWith("--")) {
        continue;
      }
      current.append(line).append('\n');
      String upper = line.strip().toUpperCase();
      set |= upper.startsWith("EXECUTE STATEMENT SET");
      boolean ends = set ? upper.equals("END;") : upper.endsWith(";");
      if (ends) {
        String statement = current.toString().strip();
        statements.add(statement.substring(0, statement.length() - 1));
        current.setLength(0);
        set = false;
      }
    }
    if (!current.toString().isBlank()) {
      statements.add(current.toString().strip());
    }
    return statements;
  }
}
