//! `fairlead-proxy redirect` on the real kernel, in network namespaces of its own: needs root, no cluster.
//!
//! In the place of the proxy stand servers at its ports, that say where a connection landed and whom it was
//! meant for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;

use fairlead_tests::pod::{Caller, Pod};
use fairlead_tests::program;

/// The proxy's user.
const PROXY: Caller = Caller { uid: Some(1337), priority: None, source: None };

const APPLICATION: Caller = Caller { uid: None, priority: None, source: None };

const WILDCARDS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A pod with something at the proxy's ports, and an application.
fn pod() -> Pod {
    let pod = Pod::new();
    for address in LOOPBACKS {
        pod.pod.listen(SocketAddr::new(address, 15001), false);
        pod.pod.listen(SocketAddr::new(address, 8081), false); // For the pod alone.
    }
    for address in WILDCARDS {
        for port in [15006, 15020, 15021, 8080] {
            pod.pod.listen(SocketAddr::new(address, port), false);
        }
        for port in [53, 3306, 9090, 9091] {
            pod.peer.listen(SocketAddr::new(address, port), false);
        }
    }
    for address in pod.pod.addresses {
        pod.pod.listen(SocketAddr::new(address, 8082), false);
    }
    pod.pod.listen(SocketAddr::new(WILDCARDS[1], 8083), true);
    pod
}

/// Runs `fairlead-proxy redirect`; what it prints.
fn redirect(pod: &Pod, flags: &[&str]) -> String {
    let output = pod
        .pod
        .command(program::path("fairlead-proxy").to_str().unwrap())
        .arg("redirect")
        .args(flags)
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(result: &io::Result<fairlead_tests::pod::Call>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Calls from the peer to the pod: where each lands at both addresses, the original destination checked.
fn lands_in_pod(pod: &Pod, port: u16) -> [Option<u16>; 2] {
    pod.pod.addresses.map(|address| landing(&pod.peer, APPLICATION, SocketAddr::new(address, port)))
}

/// The same out of the pod.
fn lands_outside(pod: &Pod, caller: Caller, addresses: [IpAddr; 2], port: u16) -> [Option<u16>; 2] {
    addresses.map(|address| landing(&pod.pod, caller, SocketAddr::new(address, port)))
}

/// None: refused, as by a closed port.
fn landing(from: &fairlead_tests::pod::Namespace, caller: Caller, to: SocketAddr) -> Option<u16> {
    let call = from.call(caller, to);
    if refused(&call) {
        return None;
    }
    let call = call.unwrap_or_else(|error| panic!("{to}: {error}"));
    if call.landed != to.port() {
        assert_eq!(call.original, Some(to), "the original destination is kept");
    }
    Some(call.landed)
}

const REFUSED: [Option<u16>; 2] = [None; 2];

fn both(port: u16) -> [Option<u16>; 2] {
    [Some(port); 2]
}

#[test]
fn inbound_is_redirected_where_somebody_listens_and_nowhere_else() {
    let pod = pod();
    assert_eq!(redirect(&pod, &[]), "redirecting inbound listening\n");
    assert_eq!(lands_in_pod(&pod, 8080), both(15006), "a listener at every address");
    assert_eq!(lands_in_pod(&pod, 8081), REFUSED, "a listener at loopback alone");
    assert_eq!(lands_in_pod(&pod, 8082), both(15006), "a listener at the pod's address");
    assert_eq!(lands_in_pod(&pod, 8083), both(15006), "a listener at [::] for both families");
    assert_eq!(lands_in_pod(&pod, 8084), REFUSED, "a closed port");
    assert_eq!(lands_in_pod(&pod, 15020), both(15020), "a scrape");
    assert_eq!(lands_in_pod(&pod, 15021), both(15006), "the kubelet's probe");
    assert_eq!(lands_in_pod(&pod, 15001), REFUSED, "the proxy's outbound port");
    assert_eq!(lands_in_pod(&pod, 15006), both(15006), "the proxy's inbound port");
}

#[test]
fn outbound_is_redirected_but_for_the_exempt() {
    let pod = pod();
    redirect(&pod, &[]);
    let (own, outside) = (pod.pod.addresses, pod.peer.addresses);
    assert_eq!(lands_outside(&pod, APPLICATION, outside, 9090), both(15001));
    assert_eq!(lands_outside(&pod, APPLICATION, outside, 9), both(15001), "whether or not there is somebody");
    assert_eq!(lands_outside(&pod, APPLICATION, outside, 53), both(53), "DNS");
    assert_eq!(lands_outside(&pod, APPLICATION, LOOPBACKS, 8081), both(8081), "loopback");
    assert_eq!(lands_outside(&pod, APPLICATION, own, 8080), both(8080), "the pod's own address");
    assert_eq!(lands_outside(&pod, APPLICATION, own, 8084), REFUSED, "the pod's own address, nobody there");
    assert_eq!(lands_outside(&pod, PROXY, outside, 9090), both(9090), "the proxy");
    assert_eq!(lands_outside(&pod, PROXY, own, 8080), both(8080), "the proxy to the application");
    for caller in [PROXY, APPLICATION] {
        assert_eq!(lands_outside(&pod, caller, LOOPBACKS, 15002), both(15001), "the capture check");
    }
}

#[test]
fn what_the_proxy_sends_to_its_own_pod_comes_in_when_it_is_marked() {
    let pod = pod();
    redirect(&pod, &[]);
    let (own, outside) = (pod.pod.addresses, pod.peer.addresses);
    let marked = Caller { priority: Some(fairlead_proxy::ports::TO_OURSELVES), ..PROXY };
    assert_eq!(lands_outside(&pod, marked, own, 8080), both(15006));
    assert_eq!(lands_outside(&pod, marked, outside, 9090), both(9090), "only to itself");
    let application = Caller { uid: None, ..marked };
    assert_eq!(lands_outside(&pod, application, own, 8080), both(8080), "the application's mark is its own");
    assert_eq!(lands_outside(&pod, application, outside, 9090), both(15001));
}

#[test]
fn what_is_excluded_goes_straight() {
    let pod = pod();
    redirect(&pod, &["--exclude-inbound-ports", "8080", "--exclude-outbound-ports", "3306,9091"]);
    assert_eq!(lands_in_pod(&pod, 8080), both(8080));
    assert_eq!(lands_in_pod(&pod, 8082), both(15006));
    let outside = pod.peer.addresses;
    assert_eq!(lands_outside(&pod, APPLICATION, outside, 3306), both(3306));
    assert_eq!(lands_outside(&pod, APPLICATION, outside, 9091), both(9091));
    assert_eq!(lands_outside(&pod, APPLICATION, outside, 9090), both(15001));

    // The second run replaces what the first excluded; overlapping ranges are fine.
    redirect(
        &pod,
        &[
            "--exclude-inbound-cidrs",
            "fd99::/16,fd99::/64",
            "--exclude-outbound-cidrs",
            "10.0.0.0/8,10.99.0.2",
        ],
    );
    assert_eq!(lands_in_pod(&pod, 8080), [Some(15006), Some(8080)]);
    assert_eq!(lands_in_pod(&pod, 15021), both(15006), "the probe is no less a check for an excluded caller");
    assert_eq!(lands_outside(&pod, APPLICATION, outside, 3306), [Some(3306), Some(15001)]);
}

#[test]
fn open_connections_live_through_every_run() {
    let pod = pod();
    let open = |name: &str, call: io::Result<fairlead_tests::pod::Call>| (name.to_owned(), call.unwrap());
    let all = |stage: &str| {
        let mut calls = Vec::new();
        for (own, outside) in pod.pod.addresses.into_iter().zip(pod.peer.addresses) {
            let inbound = pod.peer.call(APPLICATION, SocketAddr::new(own, 8080));
            let outbound = pod.pod.call(APPLICATION, SocketAddr::new(outside, 9090));
            let ourselves = pod.pod.call(APPLICATION, SocketAddr::new(own, 8080));
            calls.push(open(&format!("{stage}, inbound at {own}"), inbound));
            calls.push(open(&format!("{stage}, outbound to {outside}"), outbound));
            calls.push(open(&format!("{stage}, {own} to itself"), ourselves));
        }
        calls
    };
    let mut calls = all("before the first run");
    assert!(calls.iter().all(|(_, call)| [8080, 9090].contains(&call.landed)));
    for run in 0..3 {
        redirect(&pod, &[]);
        for (name, call) in &mut calls {
            assert!(call.echoes("still there"), "{name}: broken by run {run}");
        }
        calls.extend(all(&format!("after run {run}")));
    }
    assert!(calls.iter().any(|(_, call)| call.landed == 15006));
}

#[test]
fn two_connections_from_one_port_are_two() {
    let pod = pod();
    redirect(&pod, &[]);
    // Legal, for they lead to different ports; redirected they lead to the same one.
    for (own, outside) in pod.pod.addresses.into_iter().zip(pod.peer.addresses) {
        for (from, source, to, ports, lands) in
            [(&pod.peer, outside, own, [8080, 8082], 15006), (&pod.pod, own, outside, [9090, 9091], 15001)]
        {
            let caller = Caller { source: Some(SocketAddr::new(source, 40404)), ..APPLICATION };
            let mut calls = ports.map(|port| from.call(caller, SocketAddr::new(to, port)).unwrap());
            for (call, port) in calls.iter_mut().zip(ports) {
                assert_eq!((call.landed, call.original), (lands, Some(SocketAddr::new(to, port))));
                assert!(call.echoes(&port.to_string()));
            }
        }
    }
}

#[test]
fn a_kernel_that_cannot_tell_who_listens_redirects_everything() {
    let pod = pod();
    let folder = tempfile::tempdir().unwrap();
    let nft = folder.path().join("nft");
    std::fs::write(
        &nft,
        r#"#!/bin/sh
input=$(cat)
case "$input" in *"socket wildcard"*) echo "Error: Could not process rule: No such file or directory" >&2; exit 1;; esac
PATH=${PATH#*:}
echo "$input" | exec nft "$@"
"#,
    )
    .unwrap();
    std::fs::set_permissions(&nft, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let mut command = pod.pod.command(program::path("fairlead-proxy").to_str().unwrap());
    let output =
        command.args(["redirect", "--exclude-inbound-ports", "8085"]).env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "redirecting inbound everything\n");
    assert!(said.contains("nft_socket"), "{said}");

    for port in [8080, 8081, 8082, 8083, 8084, 15021, 15001] {
        assert_eq!(lands_in_pod(&pod, port), both(15006), "{port}");
    }
    assert_eq!(lands_in_pod(&pod, 15020), both(15020));
    assert_eq!(lands_in_pod(&pod, 8085), REFUSED);
    assert_eq!(
        lands_outside(&pod, APPLICATION, pod.pod.addresses, 8080),
        both(8080),
        "the pod's own address"
    );
    assert_eq!(lands_outside(&pod, APPLICATION, pod.pod.addresses, 8084), REFUSED);
}

#[test]
fn what_is_missing_is_named_and_printing_changes_nothing() {
    let pod = pod();
    let binary = program::path("fairlead-proxy");
    let printed = redirect(&pod, &["--print", "--exclude-inbound-ports", "22"]);
    assert!(printed.contains("tcp dport 22 accept"), "{printed}");
    assert_eq!(lands_in_pod(&pod, 8080), both(8080));

    let failed = |program: &str, arguments: &[&str], path: Option<&str>| {
        let mut command = pod.pod.command(program);
        command.args(arguments).args([binary.to_str().unwrap(), "redirect"]);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = failed("setpriv", &["--bounding-set=-net_admin", "--inh-caps=-net_admin"], None);
    assert!(said.contains("NET_ADMIN"), "{said}");
    let empty = tempfile::tempdir().unwrap();
    let said = failed("/usr/bin/env", &[&format!("PATH={}", empty.path().display())], None);
    assert!(said.contains("`nft` is not in PATH"), "{said}");
    assert_eq!(lands_in_pod(&pod, 8080), both(8080));
}
