//! A pod without a cluster: two network namespaces, `pod` and `peer`, with a cable between them.
//!
//! ```text
//! peer 10.99.0.2, fd99::2 ---- 10.99.0.1, fd99::1 pod (its default route leads to the peer)
//! ```
//!
//! The kernel is real, and so is what the proxy makes of it. Needs root. A thread enters a namespace; the
//! sockets that it opens there stay there, whoever uses them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Uid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_res_uid};
use socket2::{Domain, SockRef, Socket, Type};

/// A call to a port that answers nothing at all fails after so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// The pod and whom it talks to. Ends with its namespaces.
#[derive(Debug)]
pub struct Pod {
    /// Where the application and the proxy are.
    pub pod: Namespace,
    /// Everybody else.
    pub peer: Namespace,
}

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// Its addresses, IPv4 and IPv6.
    pub addresses: [IpAddr; 2],
}

/// Who dials, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller {
    /// None: root.
    pub uid: Option<u32>,
    /// SO_PRIORITY.
    pub priority: Option<u32>,
    /// The port it comes from, whoever else uses it.
    pub source: Option<SocketAddr>,
}

/// A connection, and what the server that took it in says about it.
#[derive(Debug)]
pub struct Call {
    /// The port where the server listens.
    pub landed: u16,
    /// SO_ORIGINAL_DST there.
    pub original: Option<SocketAddr>,
    stream: BufReader<TcpStream>,
}

impl Pod {
    /// Makes the namespaces and the cable.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = |side: &str, last: u8| {
            let name = format!("fairlead-{}-{number}-{side}", std::process::id());
            ip(&["netns", "add", &name]);
            let v6 = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, last.into());
            let v4 = Ipv4Addr::new(10, 99, 0, last);
            Namespace { name, addresses: [IpAddr::V4(v4), IpAddr::V6(v6)] }
        };
        let (pod, peer) = (namespace("pod", 1), namespace("peer", 2));
        ip(&[
            "-n", &pod.name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns",
            &peer.name,
        ]);
        for side in [&pod, &peer] {
            let [v4, v6] = side.addresses;
            for link in ["lo", "eth0"] {
                ip(&["-n", &side.name, "link", "set", link, "up"]);
            }
            ip(&["-n", &side.name, "addr", "add", &format!("{v4}/24"), "dev", "eth0"]);
            ip(&["-n", &side.name, "addr", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"]);
        }
        for gateway in peer.addresses {
            let family = if gateway.is_ipv4() { "-4" } else { "-6" };
            ip(&["-n", &pod.name, family, "route", "add", "default", "via", &gateway.to_string()]);
        }
        Self { pod, peer }
    }
}

impl Default for Pod {
    fn default() -> Self {
        Self::new()
    }
}

impl Namespace {
    /// Runs something on a thread inside.
    pub fn run<T: Send>(&self, uid: Option<u32>, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                if let Some(uid) = uid.map(Uid::from_raw) {
                    set_thread_res_uid(uid, uid, uid).unwrap();
                }
                work()
            });
            thread.join().unwrap()
        })
    }

    /// A command line that runs a program inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }

    /// Listens at `address` and echoes, until the test's process ends. IPv6 takes no IPv4 unless `dual`.
    pub fn listen(&self, address: SocketAddr, dual: bool) {
        let listener: TcpListener = self.run(None, || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            if address.is_ipv6() {
                socket.set_only_v6(!dual).unwrap();
            }
            socket.set_reuse_address(true).unwrap();
            socket.bind(&address.into()).unwrap_or_else(|error| panic!("{address}: {error}"));
            socket.listen(128).unwrap();
            socket.into()
        });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || echo(stream, address.port()));
            }
        });
    }

    /// Calls somebody from inside; the error is that of the connection.
    pub fn call(&self, caller: Caller, to: SocketAddr) -> io::Result<Call> {
        let stream = self.run(caller.uid, || -> io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            if let Some(priority) = caller.priority {
                socket.set_priority(priority)?;
            }
            if let Some(source) = caller.source {
                socket.set_reuse_address(true)?;
                socket.set_reuse_port(true)?;
                socket.bind(&source.into())?;
            }
            socket.connect_timeout(&to.into(), PATIENCE)?;
            Ok(socket.into())
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let (landed, original) = line.trim().split_once(' ').expect("the server's first line is PORT ADDR");
        Ok(Call { landed: landed.parse().expect("a port"), original: original.parse().ok(), stream })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.name]);
    }
}

impl Call {
    /// Whether the connection still carries bytes, there and back.
    pub fn echoes(&mut self, text: &str) -> bool {
        let mut line = String::new();
        let sent = self.stream.get_mut().write_all(format!("{text}\n").as_bytes());
        sent.is_ok() && self.stream.read_line(&mut line).is_ok() && line.trim() == text
    }
}

/// The server's side: says where it listens and whom the caller meant, then echoes.
fn echo(mut stream: TcpStream, port: u16) {
    let socket = SockRef::from(&stream);
    let original = match stream.local_addr() {
        Ok(SocketAddr::V6(local)) if local.ip().to_ipv4_mapped().is_none() => socket.original_dst_v6(),
        _ => socket.original_dst_v4(),
    };
    let original = original.ok().and_then(|address| address.as_socket());
    let original = original.map_or_else(|| "-".to_owned(), |address| address.to_string());
    let Ok(mut reader) = stream.try_clone() else { return };
    if writeln!(stream, "{port} {original}").is_ok() {
        let _ = io::copy(&mut reader, &mut stream); // Ends with the caller.
    }
}

fn ip(arguments: &[&str]) {
    let Output { status, stderr, .. } = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        status.success(),
        "ip {}: {}(these tests need root)",
        arguments.join(" "),
        String::from_utf8_lossy(&stderr)
    );
}
