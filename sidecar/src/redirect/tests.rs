//! The script, whole.

use super::*;

#[test]
fn the_script_of_a_pod_without_exclusions() {
    let script = script(&Options::default(), Inbound::Listening);
    assert_eq!(
        script,
        "table inet fairlead
delete table inet fairlead
table inet fairlead {
	chain outbound {
		type nat hook output priority -100; policy accept;
		ip daddr 127.0.0.1 tcp dport 15002 redirect to :15001
		ip6 daddr ::1 tcp dport 15002 redirect to :15001
		tcp flags & (fin | syn | rst | ack) != syn accept
		meta skuid 1337 oifname \"lo\" meta priority 0:6 meta l4proto tcp redirect to :15006
		meta skuid 1337 accept
		oifname \"lo\" accept
		tcp dport 53 accept
		meta l4proto tcp redirect to :15001
	}
	chain inbound {
		type nat hook prerouting priority -100; policy accept;
		tcp flags & (fin | syn | rst | ack) != syn accept
		tcp dport 15021 redirect to :15006
		tcp dport 15020 accept
		fib daddr type local meta l4proto tcp socket wildcard { 0, 1 } redirect to :15006
	}
}
"
    );
}

#[test]
fn the_script_of_a_pod_with_exclusions_on_an_old_kernel() {
    let options = Options {
        proxy_uid: 4242,
        exclude_inbound_ports: vec![22, 9000],
        exclude_outbound_ports: vec![3306],
        exclude_inbound_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        exclude_outbound_cidrs: vec!["169.254.169.254".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        print: false,
    };
    assert_eq!(
        script(&options, Inbound::Everything),
        "table inet fairlead
delete table inet fairlead
table inet fairlead {
	chain outbound {
		type nat hook output priority -100; policy accept;
		ip daddr 127.0.0.1 tcp dport 15002 redirect to :15001
		ip6 daddr ::1 tcp dport 15002 redirect to :15001
		tcp flags & (fin | syn | rst | ack) != syn accept
		meta skuid 4242 oifname \"lo\" meta priority 0:6 meta l4proto tcp redirect to :15006
		meta skuid 4242 accept
		oifname \"lo\" accept
		tcp dport 53 accept
		tcp dport 3306 accept
		ip daddr 169.254.169.254/32 accept
		ip6 daddr 2001:db8::/32 accept
		meta l4proto tcp redirect to :15001
	}
	chain inbound {
		type nat hook prerouting priority -100; policy accept;
		tcp flags & (fin | syn | rst | ack) != syn accept
		tcp dport 15021 redirect to :15006
		tcp dport 15020 accept
		tcp dport 22 accept
		tcp dport 9000 accept
		ip saddr 10.0.0.0/8 accept
		ip6 saddr fd00::/8 accept
		fib daddr type local meta l4proto tcp redirect to :15006
	}
}
"
    );
}

#[test]
fn no_exclusion_goes_before_the_checks() {
    let everything: Vec<Cidr> = ["0.0.0.0/0", "::/0"].map(|cidr| cidr.parse().unwrap()).into();
    let options = Options {
        exclude_inbound_ports: vec![READY_PORT],
        exclude_outbound_ports: vec![CHECK_PORT],
        exclude_inbound_cidrs: everything.clone(),
        exclude_outbound_cidrs: everything,
        ..Options::default()
    };
    let script = script(&options, Inbound::Listening);
    let place = |text: &str| script.find(text).unwrap_or_else(|| panic!("no `{text}` in {script}"));
    assert!(place("127.0.0.1 tcp dport 15002 redirect") < place("tcp dport 15002 accept"));
    assert!(place("::1 tcp dport 15002 redirect") < place("skuid"));
    assert!(place("tcp dport 15021 redirect") < place("tcp dport 15021 accept"));
    assert!(place("tcp dport 15021 redirect") < place("saddr 0.0.0.0/0 accept"));
}
