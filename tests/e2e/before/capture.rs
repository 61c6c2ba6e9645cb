//! A proxy that carries the traffic of a pod, on the real kernel: redirection, capture check, on-demand
//! configuration, limits, pass-through, IPv4 and IPv6. Needs root, no cluster.
//!
//! ```text
//! peer: the operator, the Service `reviews` (two endpoints), who calls the pod
//! pod:  the proxy (uid 1337), the application of the Service `web` (port 8080), who calls from inside (uid 1000)
//! ```

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use fairlead_tests::pod::{Caller, Namespace, Pod};
use fairlead_tests::program::{self, Program};
use fairlead_tests::until::{eventually, holds};

/// Who calls from inside: neither root nor the proxy.
const APPLICATION: Caller = Caller { uid: Some(1000), priority: None, source: None };

const WILDCARDS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// What a call that gets no answer at all fails after.
const PATIENCE: Duration = Duration::from_secs(20);

const LIMIT: usize = 5;

/// `reviews` has endpoints of both families at the peer's ports 8081 and 8082, `web` the pod itself.
fn manifests(pod: &Pod) -> String {
    let mut yaml = String::new();
    let mut service = |name: &str, last: u8, ports: &[u16], addresses: [IpAddr; 2]| {
        yaml += &format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  clusterIP: 10.96.0.{last}
  clusterIPs: [10.96.0.{last}, 'fd96::{last}']
  ports: [{{name: http, port: 80, protocol: TCP}}]
---
"
        );
        for port in ports {
            for (family, address) in ["IPv4", "IPv6"].iter().zip(addresses) {
                let slice = format!("{name}-{}-{port}", family.to_lowercase());
                yaml += &format!(
                    "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {slice}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: {family}
ports: [{{name: http, port: {port}, protocol: TCP}}]
endpoints: [{{addresses: ['{address}'], conditions: {{ready: true}}}}]
---
"
                );
            }
        }
    };
    service("reviews", 10, &[8081, 8082], pod.peer.addresses);
    service("web", 11, &[8080], pod.pod.addresses);
    yaml + &format!(
        "apiVersion: fairlead.dev/v1alpha1
kind: RateLimitPolicy
metadata: {{name: web, namespace: shop}}
spec:
  targetRefs: [{{name: web}}]
  limits: [{{name: hourly, requests: {LIMIT}, per: 1h}}]
"
    )
}

fn virtual_addresses(last: u8) -> [SocketAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, if last == 10 { 0x10 } else { 0x11 });
    [SocketAddr::new(Ipv4Addr::new(10, 96, 0, last).into(), 80), SocketAddr::new(v6.into(), 80)]
}

/// An HTTP server that answers each connection's one request with its own port and what it read.
fn serve_http(namespace: &Namespace, address: SocketAddr) {
    let listener = namespace.run(None, || {
        let listener =
            socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
        let listener = listener.unwrap();
        if address.is_ipv6() {
            listener.set_only_v6(true).unwrap();
        }
        listener.bind(&address.into()).unwrap();
        listener.listen(128).unwrap();
        TcpListener::from(listener)
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let head = read_head(&mut stream);
                let body = format!("port {}\n{head}", address.port());
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
            });
        }
    });
}

fn read_head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// One request from inside a namespace, and all that comes back.
fn http(from: &Namespace, caller: Caller, to: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = from.run(caller.uid, || TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: somebody\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.to_lowercase())
}

fn status(answer: &io::Result<String>) -> &str {
    answer.as_ref().map_or("", |answer| answer.split(' ').nth(1).unwrap_or_default())
}

/// A program inside a namespace.
fn start(namespace: &Namespace, uid: u32, binary: &str, logs: &Path, arguments: &[String]) -> Program {
    let mut command = namespace.command("setpriv");
    let id = uid.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--pdeathsig", "KILL", "--"]);
    command.arg(program::path(binary)).args(arguments);
    let file = Path::new(command.get_program()).to_owned();
    let words = command.get_args().map(|word| word.to_str().unwrap().to_owned());
    Program::start_file(&file, binary, logs, &words.collect::<Vec<_>>())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

struct World {
    pod: Pod,
    operator: Option<Program>,
    proxy: Program,
    _source: tempfile::TempDir,
}

impl World {
    /// The proxy runs; nothing is redirected yet.
    async fn new(with_operator: bool) -> Self {
        let (pod, logs) = (Pod::new(), program::logs());
        let source = tempfile::tempdir().unwrap();
        std::fs::write(source.path().join("mesh.yaml"), manifests(&pod)).unwrap();
        for wildcard in WILDCARDS {
            serve_http(&pod.pod, SocketAddr::new(wildcard, 8080));
            for port in [8081, 8082] {
                serve_http(&pod.peer, SocketAddr::new(wildcard, port));
            }
            pod.peer.listen(SocketAddr::new(wildcard, 3306), false);
        }
        let mut operator = None;
        if with_operator {
            let source = source.path().display();
            let flags = format!(
                "--source {source} --xds-listen 0.0.0.0:15010 --admin-listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0"
            );
            let program = start(&pod.peer, 0, "fairlead-operator", &logs, &words(&flags));
            program.address("xds", "-").await;
            operator = Some(program);
        }
        let ([v4, v6], [peer, _]) = (pod.pod.addresses, pod.peer.addresses);
        let flags = format!(
            "--capture --operator http://{peer}:15010 --pod shop/web-1 --pod-ips {v4},{v6} --probes 8080/healthz --workers 2 --log info,fairlead_proxy=debug"
        );
        let proxy = start(&pod.pod, 1337, "fairlead-proxy", &logs, &words(&flags));
        proxy.address("ready", "-").await;
        Self { pod, operator, proxy, _source: source }
    }

    fn redirect(&self) {
        let mut command = self.pod.pod.command(program::path("fairlead-proxy").to_str().unwrap());
        let output = command.arg("redirect").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// `/ready` as the kubelet asks, by each family.
    fn asks_ready(&self) -> [io::Result<String>; 2] {
        self.pod
            .pod
            .addresses
            .map(|address| http(&self.pod.peer, Caller::default(), SocketAddr::new(address, 15021), "/ready"))
    }

    async fn ready(&self) {
        holds("the pod is ready", || async {
            self.asks_ready().iter().all(|answer| status(answer) == "200")
        })
        .await;
    }

    /// From inside.
    fn calls(&self, to: SocketAddr) -> String {
        let answer = http(&self.pod.pod, APPLICATION, to, "/");
        answer.unwrap_or_else(|error| panic!("{to}: {error}\n{}", self.proxy.tail()))
    }

    fn metric(&self, start: &str) -> Option<String> {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15020);
        let page = http(&self.pod.pod, APPLICATION, address, "/metrics").unwrap();
        page.lines().find_map(|line| line.strip_prefix(start).map(|value| value.trim().to_owned()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_pod() {
    let mut world = World::new(true).await;

    // Nothing is redirected, and that is what it says.
    let [answer, _] = world.asks_ready();
    let said = answer.unwrap();
    assert!(said.contains("did not come through 15006: inbound capture does not hold"), "{said}");
    let (said, _) = eventually("the outbound check has failed", || async {
        let said = world.asks_ready().into_iter().next()?.ok()?;
        said.contains("refused").then_some(said)
    })
    .await;
    assert!(said.contains("outbound capture does not hold: 127.0.0.1:15002 did not lead to 15001"), "{said}");
    assert!(said.contains("outbound capture does not hold: [::1]:15002"), "{said}");
    world.redirect();
    world.ready().await;

    // A known Service is balanced, by each of its addresses.
    for address in virtual_addresses(10) {
        let answers: Vec<_> = (0..40).map(|_| world.calls(address)).collect();
        assert!(answers.iter().all(|one| one.contains("x-fairlead-target: shop/reviews:80")), "{answers:?}");
        for port in ["port 8081", "port 8082"] {
            assert!(answers.iter().any(|one| one.contains(port)), "{port}: {answers:?}");
        }
    }

    for address in world.pod.peer.addresses {
        // HTTP to where no Service is known stays as it is.
        let answer = world.calls(SocketAddr::new(address, 8081));
        assert!(answer.contains("port 8081") && !answer.contains("x-fairlead"), "{answer}");
        // A server that speaks first is heard, from where it believes to be called.
        let mut call = world.pod.pod.call(APPLICATION, SocketAddr::new(address, 3306)).unwrap();
        assert!(call.echoes("select 1"));
        // Where nobody listens.
        let error = http(&world.pod.pod, APPLICATION, SocketAddr::new(address, 4444), "/").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    // Limits hold for who calls from outside, by either family; probes are free of them.
    let web = world.pod.pod.addresses.map(|address| SocketAddr::new(address, 8080));
    let statuses: Vec<_> = (0..=LIMIT)
        .map(|_| status(&http(&world.pod.peer, Caller::default(), web[1], "/")).to_owned())
        .collect();
    assert_eq!(statuses.iter().filter(|status| *status == "200").count(), LIMIT, "{statuses:?}");
    assert_eq!(statuses.last().unwrap(), "429");
    for address in web {
        let probe = http(&world.pod.peer, Caller::default(), address, "/healthz");
        assert_eq!(status(&probe), "200", "{probe:?}");
    }
    // The pod that calls its own Service is called as by everybody else, at its IPv4 address, which has a
    // bucket of its own.
    let [v4, v6] = virtual_addresses(11);
    let answers: Vec<_> =
        (0..4 * LIMIT).map(|number| world.calls(if number % 2 == 0 { v4 } else { v6 })).collect();
    assert!(answers.iter().any(|one| one.contains("port 8080")), "{answers:?}");
    assert!(answers.iter().any(|one| one.starts_with("http/1.1 429")), "{answers:?}");
    assert!(answers.iter().all(|one| !one.contains("x-fairlead-target")), "{answers:?}");
    // And by its own address it calls itself.
    for address in web {
        assert!(world.calls(address).contains("port 8080"));
    }

    // What is not open is not open, and ours is not for calling.
    for address in world.pod.pod.addresses {
        let closed = world.pod.peer.call(Caller::default(), SocketAddr::new(address, 4444)).unwrap_err();
        assert_eq!(closed.kind(), io::ErrorKind::ConnectionRefused);
        let ours = http(&world.pod.peer, Caller::default(), SocketAddr::new(address, 15006), "/");
        assert!(ours.as_ref().map_or(true, String::is_empty), "{ours:?}");
    }
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let ours = http(&world.pod.pod, APPLICATION, SocketAddr::new(address, 15001), "/");
        assert!(ours.as_ref().map_or(true, String::is_empty), "{ours:?}");
    }
    assert_eq!(world.metric("fairlead_capture_verified{direction=\"inbound\"}").as_deref(), Some("1"));
    assert_eq!(world.metric("fairlead_started_without_config").as_deref(), Some("0"));

    // Without the operator the last configuration is in force, what is new passes through, and it stays ready.
    drop(world.operator.take());
    holds("the proxy knows that the operator is gone", || async {
        world.metric("fairlead_xds_connected").as_deref() == Some("0")
    })
    .await;
    assert!(world.calls(virtual_addresses(10)[0]).contains("x-fairlead-target: shop/reviews:80"));
    let elsewhere = SocketAddr::new(world.pod.peer.addresses[0], 8082);
    assert!(world.calls(elsewhere).contains("port 8082"));
    let passed = world.metric("fairlead_passthrough_connections_total{reason=\"disconnected\"}");
    assert_eq!(passed.as_deref(), Some("1"));
    world.ready().await;

    // The application has gone.
    let ended = world.proxy.terminate().await;
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_pod_starts_without_the_operator() {
    let world = World::new(false).await;
    world.redirect();
    let (said, _) = eventually("a reason", || async {
        let said = world.asks_ready().into_iter().next()?.ok()?;
        said.contains("no stream to the operator:").then_some(said)
    })
    .await;
    assert!(said.contains("first configuration:"), "{said}");
    world.ready().await;
    assert_eq!(world.metric("fairlead_started_without_config").as_deref(), Some("1"));
    for address in world.pod.peer.addresses {
        let answer = world.calls(SocketAddr::new(address, 8081));
        assert!(answer.contains("port 8081") && !answer.contains("x-fairlead"), "{answer}");
    }
    for address in world.pod.pod.addresses {
        let answer = http(&world.pod.peer, Caller::default(), SocketAddr::new(address, 8080), "/");
        assert!(answer.as_ref().is_ok_and(|answer| answer.contains("port 8080")), "{answer:?}");
    }
}
