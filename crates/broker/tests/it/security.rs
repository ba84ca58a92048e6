//! Logins, certificates, ACLs and quotas with clients that were not written for this broker.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::Duration;

use herdsman_testkit::kafka_python as python;

use crate::server::{Server, free_port, run, scripts};

/// A folder with an authority, a server's and a client's certificate.
fn certificates() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        run(Command::new("openssl").args(arguments.split(' ')).current_dir(folder.path()));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -days 2 -subj /O=Hunt/CN=authority -keyout ca.key -out ca.pem"));
    std::fs::write(folder.path().join("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    for name in ["server", "client"] {
        openssl(&format!("req {key} -subj /O=Hunt/CN={name} -keyout {name}.key -out {name}.csr"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem"
        ));
    }
    folder
}

/// A broker with a listener of each kind, ACLs on, and the users admin and bob.
struct Guarded {
    server: Option<Server>,
    data: tempfile::TempDir,
    pki: tempfile::TempDir,
    sasl: u16,
    sasl_ssl: u16,
    ssl: u16,
    more: Vec<&'static str>,
}

impl Guarded {
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more `NAME=VALUE` arguments.
    fn start_with(more: &[&'static str]) -> Self {
        let (data, pki) = (tempfile::tempdir().unwrap(), certificates());
        let ports = herdsman_testkit::free_ports(3);
        let mut guarded = Self {
            server: None,
            data,
            pki,
            sasl: ports[0],
            sasl_ssl: ports[1],
            ssl: ports[2],
            more: more.to_vec(),
        };
        guarded.restart();
        guarded
    }

    /// kill -9 if it runs, then start.
    fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
        let listeners = [("SASL_PLAINTEXT", self.sasl), ("SASL_SSL", self.sasl_ssl), ("SSL", self.ssl)];
        let mut settings = listeners.map(|(name, port)| format!("listener={name}:{port}")).to_vec();
        settings.push(format!("tls={}", self.pki.path().display()));
        let fixed = ["client.auth=requested", "user=admin:oak", "authorizer=true", "super=User:admin"];
        settings.extend(fixed.map(str::to_owned));
        let settings: Vec<&str> =
            settings.iter().map(String::as_str).chain(self.more.iter().copied()).collect();
        self.server = Some(Server::start_with(self.data.path(), free_port(), &settings));
    }

    fn file(&self, name: &str) -> String {
        self.pki.path().join(name).display().to_string()
    }

    /// kcat with these `-X` settings.
    fn kcat(&self, port: u16, settings: &[String], arguments: &[&str], input: &str) -> Output {
        let mut command = herdsman_testkit::system_program("kcat");
        command.args(["-q", "-b", &format!("127.0.0.1:{port}"), "-m", "20"]);
        command.args(["-X", &format!("ssl.ca.location={}", self.file("ca.pem"))]);
        for setting in settings {
            command.args(["-X", setting]);
        }
        let mut child = command
            .args(arguments)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("kcat is installed (apt-get install kcat)");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// A tool of Apache Kafka as the super user, over TLS.
    fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let properties = self.file("admin.properties");
        let login = format!(
            "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nssl.truststore.type=PEM\n\
             ssl.truststore.location={}\nsasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule \
             required username=\"admin\" password=\"oak\";\n",
            self.file("ca.pem")
        );
        std::fs::write(&properties, login).unwrap();
        let address = format!("127.0.0.1:{}", self.sasl_ssl);
        let mut command = herdsman_testkit::kafka_tool(class);
        command.args(["--bootstrap-server", &address, "--command-config", &properties]);
        run(command.args(arguments))
    }

    fn script(&self, part: &str) -> String {
        let address = format!("127.0.0.1:{}", self.sasl_ssl);
        let mut command = Command::new(python());
        command.arg(scripts().join("security.py")).args([part, &address, &self.file("ca.pem")]);
        run(&mut command)
    }
}

fn login(protocol: &str, mechanism: &str, user: &str, password: &str) -> Vec<String> {
    vec![
        format!("security.protocol={protocol}"),
        format!("sasl.mechanism={mechanism}"),
        format!("sasl.username={user}"),
        format!("sasl.password={password}"),
    ]
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn kcat_logs_in_by_every_mechanism_with_and_without_tls_and_a_wrong_password_is_told() {
    let guarded = Guarded::start();
    let mut written = String::new();
    for (protocol, port) in [("SASL_PLAINTEXT", guarded.sasl), ("SASL_SSL", guarded.sasl_ssl)] {
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let line = format!("{protocol} {mechanism}\n");
            let settings = login(protocol, mechanism, "admin", "oak");
            let output = guarded.kcat(port, &settings, &["-P", "-t", "finds"], &line);
            assert!(output.status.success(), "{line}: {}", said(&output));
            written.push_str(&line);
        }
    }
    let settings = login("SASL_SSL", "SCRAM-SHA-256", "admin", "oak");
    let read = guarded.kcat(guarded.sasl_ssl, &settings, &["-C", "-e", "-t", "finds"], "");
    assert_eq!(said(&read), written);
    let wrong = login("SASL_SSL", "SCRAM-SHA-256", "admin", "elm");
    let output = guarded.kcat(guarded.sasl_ssl, &wrong, &["-v", "-P", "-t", "finds"], "x\n");
    assert!(!output.status.success());
    let sentence = "login refused for user admin with SCRAM-SHA-256: check name and password (this listener also offers SCRAM-SHA-512 and PLAIN over TLS)";
    assert!(said(&output).contains(sentence), "{}", said(&output));
    // without a login nothing is shown: not over the listener that asks for none either
    let anonymous = guarded.kcat(guarded.server.as_ref().unwrap().port, &[], &["-L"], "");
    assert!(!said(&anonymous).contains("finds"), "{}", said(&anonymous));
}

#[test]
fn javas_tools_set_acls_users_and_quotas_which_outlive_a_kill() {
    let mut guarded = Guarded::start();
    let acls = |arguments: &[&str]| guarded.tool("org.apache.kafka.tools.AclCommand", arguments);
    let certified = "User:CN=client,O=Hunt";
    acls(&["--add", "--allow-principal", certified, "--producer", "--topic", "finds"]);
    acls(&[
        "--add",
        "--allow-principal",
        "User:bob",
        "--operation",
        "All",
        "--topic",
        "bulk",
        "--group",
        "readers",
    ]);
    let listed = acls(&["--list", "--topic", "finds"]);
    assert!(
        listed.contains(&format!("principal={certified}")) && listed.contains("operation=CREATE"),
        "{listed}"
    );
    let configs = |arguments: &[&str]| guarded.tool("kafka.admin.ConfigCommand", arguments);
    let users = ["--entity-type", "users", "--entity-name", "bob"];
    let alter = |what: &str| configs(&[&["--alter", "--add-config", what][..], &users].concat());
    alter("SCRAM-SHA-512=[iterations=8192,password=elm]");
    alter("producer_byte_rate=1000000,consumer_byte_rate=1000000");
    guarded.restart();

    let configs = |arguments: &[&str]| guarded.tool("kafka.admin.ConfigCommand", arguments);
    let described = configs(&[&["--describe"][..], &users].concat());
    for part in
        ["SCRAM-SHA-512=iterations=8192", "producer_byte_rate=1000000.0", "consumer_byte_rate=1000000.0"]
    {
        assert!(described.contains(part), "{part}: {described}");
    }
    // who shows a certificate is known by it
    let settings = [
        "security.protocol=SSL".to_owned(),
        format!("ssl.certificate.location={}", guarded.file("client.pem")),
        format!("ssl.key.location={}", guarded.file("client.key")),
    ];
    let sent = guarded.kcat(guarded.ssl, &settings, &["-P", "-t", "finds"], "oak\n");
    assert!(sent.status.success(), "{}", said(&sent));
    let read = guarded.kcat(guarded.ssl, &settings, &["-C", "-e", "-t", "finds"], "");
    assert!(said(&read).contains("Topic authorization failed"), "a producer may not read: {}", said(&read));
    let unknown = guarded.kcat(guarded.ssl, &settings[..1], &["-P", "-t", "finds"], "oak\n");
    assert!(!unknown.status.success(), "nobody knows who that is");

    let throttled = guarded.script("throttled");
    assert!(throttled.ends_with("all good\n"), "{throttled}");
    println!("{throttled}");
    let removed = guarded.tool(
        "org.apache.kafka.tools.AclCommand",
        &["--remove", "--force", "--allow-principal", certified, "--producer", "--topic", "finds"],
    );
    assert!(!removed.contains(certified), "{removed}");
    let sent = guarded.kcat(guarded.ssl, &settings, &["-P", "-t", "finds"], "oak\n");
    assert!(!sent.status.success(), "its ACLs are gone");
}

#[test]
fn librdkafka_administers_users_and_acls_and_gets_kafkas_refusals() {
    let guarded = Guarded::start();
    let rights = guarded.script("rights");
    assert!(rights.ends_with("all good\n"), "{rights}");
}

#[test]
fn a_login_that_ends_is_renewed_by_the_client_without_an_error() {
    let guarded = Guarded::start_with(&["reauth.ms=1500"]);
    let renewed = guarded.script("renewed");
    assert!(renewed.ends_with("all good\n"), "{renewed}");
}

/// What comes back until the broker closes; panics if it does not within ten seconds.
fn until_closed(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => answer,
        Err(error) => panic!("port {port}: {error}"),
    }
}

#[test]
fn strangers_get_three_apis_small_frames_and_little_time_before_they_log_in() {
    let guarded = Guarded::start();
    let request = |api: u16, body: &[u8]| {
        let head = [&api.to_be_bytes()[..], &[0, 0, 0, 0, 0, 7, 0, 1, b'x'], body].concat();
        [&u32::try_from(head.len()).unwrap().to_be_bytes()[..], &head].concat()
    };
    let metadata = request(3, &[0, 0, 0, 0]);
    assert_eq!(until_closed(guarded.sasl, &metadata), [], "no login, no answer");
    assert_eq!(until_closed(guarded.sasl, &(65_u32 << 10).to_be_bytes()), [], "too large before a login");
    // plain text on a TLS port: an alert at most, never an answer of Kafka's
    let answer = until_closed(guarded.ssl, &metadata);
    assert!(answer.len() < 16, "{answer:?}");
    // before SaslAuthenticate (version 1 of the handshake) the messages of a login were frames of their own
    let handshake = request(17, &[&[0, 5][..], b"PLAIN"].concat());
    let old = |password: &str| {
        let token = format!("\0admin\0{password}");
        let token = [&u32::try_from(token.len()).unwrap().to_be_bytes()[..], token.as_bytes()].concat();
        let mut stream = TcpStream::connect(("127.0.0.1", guarded.sasl)).unwrap();
        stream.write_all(&[&handshake[..], &token, &metadata].concat()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).unwrap();
        let len = usize::try_from(u32::from_be_bytes(*answers.first_chunk().unwrap())).unwrap();
        answers.split_off(4 + len)
    };
    assert_eq!(old("elm"), [], "refused: closed without a word");
    let answers = old("oak");
    assert_eq!(answers[..4], [0; 4], "an empty token says welcome");
    assert!(answers.len() > 30, "then Metadata is answered: {answers:?}");
    // nothing at all: closed after ten seconds
    assert_eq!(until_closed(guarded.sasl, &[]), []);
    let settings = login("SASL_SSL", "SCRAM-SHA-512", "admin", "oak");
    assert!(guarded.kcat(guarded.sasl_ssl, &settings, &["-L"], "").status.success(), "others are served");
}
