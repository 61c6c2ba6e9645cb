#!/usr/bin/env python3
"""Sidecar benchmark: measures the proxies of proxies.toml against each other. See README.md.

  bench.py check                      start every proxy, send it one request, stop it
  bench.py run [--reps 5] [--dur 8]   throughput, latency, CPU per request; then memory and startup
  bench.py syscalls                   system calls per request, with strace
  bench.py report RESULTS.json        print the tables again

  --only a,b,c    these proxies only (the base proxies are what ratios need, so keep them)
  --scenarios h1,rate,h2,big,h1x2,full,overload,mem      default: all
"""
import argparse, json, os, re, resource, shutil, signal, socket, statistics as stats
import subprocess, sys, tempfile, time, tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
KIT = Path(os.environ.get("BENCH_KIT", HERE / "kit/target/release"))
CPU_LOAD = int(os.environ.get("BENCH_CPU_LOAD", 0))    # load generator and backend
CPU_PROXY = int(os.environ.get("BENCH_CPU_PROXY", 1))  # the proxy
BACKEND = 9000
TICK = os.sysconf("SC_CLK_TCK")

# Scenario: what drives the proxy, and which share of --dur one measurement takes. `x2` runs the proxy with two workers on both CPUs.
SCENARIOS = {
    "h1":   dict(title="HTTP/1.1, 32 keep-alive connections, closed loop"),
    "rate": dict(title="HTTP/1.1, 1000 requests/s (Poisson) over 16 connections"),
    "h2":   dict(title="HTTP/2 cleartext, 10 connections x 10 streams, closed loop"),
    "big":  dict(title="HTTP/1.1, 1 MiB responses, 4 connections, closed loop", share=0.625),
    "h1x2": dict(title="HTTP/1.1, 32 connections, proxy with 2 workers, all on both CPUs", share=0.75),
    "full": dict(title="HTTP/1.1, 2,000 requests/s to an endpoint that takes 16 at once, 5 ms each; 16 may wait"),
    "overload": dict(title="the same with 4,000 requests/s"),
}

# What the endpoint of `full` and `overload` takes at once; as many may wait. It answers after 5 ms.
LIMIT = 16
# Requests a second that it takes with room to spare: timers of whole milliseconds make 5 ms six or seven.
FULL = 2000
# Who is asked to keep that limit.
LIMITED = ("envoy", "fairlead")

# Where what must hold is a few per cent away, the two that it is about and what they are measured against run three times as often.
CLOSE = {"h1": ("direct", "envoy", "fairlead"), "rate": ("direct", "envoy", "fairlead"),
         "big": ("envoy", "fairlead", "envoy-tcp", "fairlead-tcp")}


# ---------------------------------------------------------------- candidates

def load_proxies(only):
    conf = tomllib.loads((HERE / "proxies.toml").read_text())
    path = os.environ["PATH"] + ":/usr/sbin"
    bins = {k: os.environ.get("BIN_" + k, v) for k, v in conf["bin"].items()}
    bins = {k: shutil.which(v, path=path) or v for k, v in bins.items()}
    out = []
    for p in conf["proxy"]:
        if only and p["name"] not in only:
            continue
        for command in [p, *p.get("also", [])]:
            for key in ("cmd", "helper"):
                if key in command:
                    command[key] = [w for word in command[key]
                                    for w in (conf["command"][word[2:]] if word.startswith("@@") else [word])]
        used = set(re.findall(r"@BIN_(\w+)@", " ".join(a for c in [p["cmd"], p.get("helper", []), *(o["cmd"] for o in p.get("also", []))] for a in c)))
        missing = [b for b in used if not shutil.which(bins.get(b, ""))] + [f for f in p.get("needs", []) if not Path(f).exists()]
        if missing:
            if not p.get("optional"):
                sys.exit(f"{p['name']}: no binary for {missing}; set BIN_{missing[0]} or use --only")
            print(f"# {p['name']}: left out, no {', '.join(missing)}", file=sys.stderr)
            continue
        out.append(p)
    return out, bins, conf["base"]


def extra_config(p):
    """Envoy blocks for the large configurations."""
    policy = (
        "    connect_timeout: 1s\n    lb_policy: LEAST_REQUEST\n"
        "    circuit_breakers: { thresholds: [ { priority: DEFAULT, max_connections: 4096, "
        "max_pending_requests: 4096, max_requests: 4096, max_retries: 16 } ] }\n"
        "    outlier_detection: { consecutive_5xx: 5, interval: 5s, base_ejection_time: 30s, max_ejection_percent: 50 }\n"
    )
    def cluster(name, addrs):
        eps = "".join(f"        - endpoint: {{ address: {{ socket_address: {{ address: {a}, port_value: 8080 }} }} }}\n" for a in addrs)
        return (f"  - name: {name}\n    type: STATIC\n{policy}"
                f"    load_assignment:\n      cluster_name: {name}\n      endpoints:\n      - lb_endpoints:\n{eps}")
    def vhost(name):
        return (f"            - name: {name}\n              domains: [\"{name}.default.svc\", \"{name}.default.svc:*\"]\n"
                f"              routes:\n              - match: {{ prefix: \"/\" }}\n                route: {{ cluster: {name}, timeout: 15s, "
                f"retry_policy: {{ retry_on: \"connect-failure,refused-stream,unavailable,cancelled,reset\", num_retries: 2 }} }}\n")
    ip = lambda i: f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}"
    cl, vh = "", ""
    for i in range(p.get("clusters", 0)):
        cl += cluster(f"svc-{i}", [ip(i + 1)])
        vh += vhost(f"svc-{i}")
    if n := p.get("endpoints", 0):
        cl += cluster("big", [ip(i + 1) for i in range(n)])
        vh += vhost("big")
    return {"EXTRA_CLUSTERS": cl, "EXTRA_VHOSTS": vh, "SERVICES": services(p, ip)}


def services(p, ip):
    """The same for Fairlead: what its operator reads."""
    def service(name, at, addrs):
        yaml = (f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: bench}}\n"
                f"spec: {{clusterIP: 10.97.{at >> 8}.{at & 255}, ports: [{{name: http, port: 80}}]}}\n")
        for i in range(0, len(addrs), 1000):
            ends = "".join(f"- {{addresses: [{a}], conditions: {{ready: true}}}}\n" for a in addrs[i:i + 1000])
            yaml += (f"---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{i // 1000}, "
                     f"namespace: bench, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n"
                     f"ports: [{{name: http, port: 8080}}]\nendpoints:\n{ends}")
        return yaml
    out = "".join(service(f"svc-{i}", i, [ip(i + 1)]) for i in range(p.get("clusters", 0)))
    if n := p.get("endpoints", 0):
        out += service("big", 0, [ip(i + 1) for i in range(n)])
        out += (HERE / "templates/fairlead-policies.yaml").read_text().replace("items", "big")
    return out


def filled(text, values):
    """`text` with its placeholders filled in; twice, for what is inserted has placeholders of its own."""
    for _ in range(2):
        text = re.sub(r"@(\w+)@", lambda m: str(values.get(m[1], m[0])), text)
    return text


def configured(p, values, h2, prefix=""):
    """The values of one command, its configuration written."""
    v = dict(values, **p.get("set", {}))
    for k, files in p.get("insert", {}).items():
        v[k] = "\n".join((HERE / "templates" / f).read_text().rstrip() for f in files)
    if h2:
        v.update(p.get("h2", {}))
    if "config" in p:
        v["CONFIG"] = v["FOLDER"] / (prefix + p["config"])
        v["CONFIG"].write_text(filled((HERE / "templates" / p["config"]).read_text(), v))
    return v


class Proxy:
    """One running proxy: the process trees of its `cmd` and of what `also` names, beside an uncounted `helper`."""

    def __init__(self, p, bins, run, port, workers=1, cpus=None, h2=False, limit=4096):
        self.p, self.port, self.helper, self.procs = p, port, None, []
        folder = Path(tempfile.mkdtemp(prefix=f"{p['name']}-", dir=run))
        v = {"LISTEN": port, "BACKEND": BACKEND, "ADMIN": port + 5000, "XDS": port + 6000, "NEXT": port + 7000,
             "WORKERS": workers, "LIMIT": limit, "RUN": run, "FOLDER": folder, "NAME": f"{p['name']}-{port}", "HERE": HERE,
             "KIT": KIT, "SPLICE": "", "H2": "", "HTTP_FILTERS": "", "POLICIES": "", **extra_config(p)}
        v.update({"BIN_" + k: b for k, b in bins.items()})
        self.log = open(Path(run) / f"{p['name']}-{port}.log", "w")
        for taken in (v[name] for name in ("LISTEN", "XDS", "NEXT") if listens(v[name])):
            sys.exit(f"{p['name']}: its port {taken} is in use")
        own = configured(p, v, h2)
        if "helper" in p:
            self.helper = self.start(p["helper"], own, {CPU_LOAD})
            while not listens(v["XDS"]):  # It does once it has read its source.
                if self.helper.poll() is not None:
                    raise RuntimeError(f"{p['name']}: its helper ended at start; see {self.log.name}")
                time.sleep(0.01)
        self.t0 = time.monotonic()
        for i, other in enumerate(p.get("also", [])):
            self.procs.append(self.start(other["cmd"], configured(other, v, h2, f"also-{i}-"), cpus or {CPU_PROXY}))
        self.procs.append(self.start(p["cmd"], own, cpus or {CPU_PROXY}))

    def start(self, cmd, values, cpus):
        return subprocess.Popen([filled(a, values) for a in cmd], stdout=self.log, stderr=self.log,
                                start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, cpus))

    def wait(self, limit=60):
        """Seconds from spawn to the first complete 200."""
        req = b"GET /api/items/42 HTTP/1.1\r\nhost: items.default.svc\r\nconnection: close\r\n\r\n"
        pre = self.p.get("_h2") and self.p.get("h2_only")
        while time.monotonic() - self.t0 < limit:
            if any(proc.poll() is not None for proc in self.procs):
                raise RuntimeError(f"{self.p['name']} ended at start; see {self.log.name}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=2) as s:
                    if pre:
                        return time.monotonic() - self.t0
                    s.sendall(req)
                    if s.recv(4096).startswith(b"HTTP/1.1 200"):
                        return time.monotonic() - self.t0
            except OSError:
                pass
            time.sleep(0.001)
        raise RuntimeError(f"{self.p['name']} did not answer; see {self.log.name}")

    def pids(self):
        kids = {}
        for d in os.listdir("/proc"):
            if d.isdigit():
                try:
                    s = Path(f"/proc/{d}/stat").read_text()
                except OSError:
                    continue
                comm, rest = s[s.index("(") + 1:s.rindex(")")], s[s.rindex(")") + 2:].split()
                kids.setdefault(int(rest[1]), []).append((int(d), comm))
        out, todo = [(proc.pid, "") for proc in self.procs], [proc.pid for proc in self.procs]
        while todo:
            for pid, comm in kids.get(todo.pop(), []):
                out.append((pid, comm))
                todo.append(pid)
        want = self.p.get("only_process")
        return [pid for pid, comm in out if not want or comm == want[:15]]

    def cpu(self):
        """(seconds on CPU from schedstat, user s, system s)."""
        run = user = sys_ = 0
        for pid in self.pids():
            try:
                for t in os.listdir(f"/proc/{pid}/task"):
                    run += int(Path(f"/proc/{pid}/task/{t}/schedstat").read_text().split()[0])
                f = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                user += int(f[11]) / TICK
                sys_ += int(f[12]) / TICK
            except OSError:
                pass
        return run / 1e9, user, sys_

    def mem(self):
        """(RSS, PSS) in MiB over the process tree."""
        rss = pss = 0
        for pid in self.pids():
            t = Path(f"/proc/{pid}/smaps_rollup").read_text()
            rss += int(re.search(r"^Rss:\s+(\d+)", t, re.M)[1])
            pss += int(re.search(r"^Pss:\s+(\d+)", t, re.M)[1])
        return rss / 1024, pss / 1024

    def stop(self):
        procs = [*self.procs, *([self.helper] if self.helper else [])]
        for sig in (signal.SIGTERM, signal.SIGKILL):
            for proc in procs:
                try:
                    os.killpg(proc.pid, sig)
                except ProcessLookupError:
                    pass
            for proc in procs:
                try:
                    proc.wait(5)
                except subprocess.TimeoutExpired:
                    pass
        self.log.close()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


# ---------------------------------------------------------------- one measurement

def cpu_times():
    """Busy and steal ticks of each CPU."""
    out = {}
    for l in Path("/proc/stat").read_text().splitlines():
        if m := re.match(r"cpu(\d+) (.*)", l):
            f = [int(x) for x in m[2].split()]
            out[int(m[1])] = (sum(f[:8]) - f[3] - f[4], f[7])
    return out


def pinned(cmd, cpus):
    return subprocess.run([str(c) for c in cmd], capture_output=True, text=True, check=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, cpus)).stdout


def drive(scen, port, dur, cpus):
    load = [KIT / "load", "--addr", f"127.0.0.1:{port}"]
    if scen in ("h1", "h1x2"):
        return json.loads(pinned(load + ["--conns", 32, "--dur", dur, "--warmup", 0.5], cpus))
    if scen == "rate":
        return json.loads(pinned(load + ["--conns", 16, "--rate", 1000, "--dur", dur, "--warmup", 0.5], cpus))
    if scen in ("full", "overload"):
        rate = FULL * (2 if scen == "overload" else 1)
        return json.loads(pinned(load + ["--conns", 256, "--rate", rate, "--spread", "--path", "/slow", "--refusals", "--dur", dur, "--warmup", 0.5], cpus))
    if scen == "big":
        return json.loads(pinned(load + ["--conns", 4, "--path", "/big", "--dur", dur, "--warmup", 0.5], cpus))
    if scen == "h2":
        t = pinned(["h2load", "-c10", "-m10", "-t1", "-D", max(1, round(dur)), f"http://127.0.0.1:{port}/api/items/42"], cpus)
        m = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", t)
        ok, bad = int(m[1]), int(m[2]) + int(m[3])
        return {"requests": ok, "rps": ok / max(1, round(dur)), "errors": bad, "mb_s": 0}
    raise ValueError(scen)


def measure(scen, proxy, port, dur, cpus):
    c0, k0, w0 = proxy.cpu() if proxy else (0, 0, 0), cpu_times(), time.monotonic()
    r = drive(scen, port, dur, cpus)
    c1, k1, wall = proxy.cpu() if proxy else (0, 0, 0), cpu_times(), time.monotonic() - w0
    n = max(1, r["requests"])
    cpu = c1[0] - c0[0]
    r["cpu_ms_per_1k"] = cpu * 1e6 / n
    r["cpu_util"] = cpu / wall
    ticks = (c1[1] - c0[1]) + (c1[2] - c0[2])
    r["sys_share"] = (c1[2] - c0[2]) / ticks if ticks else 0
    r["cpu_s_per_gb"] = cpu / (r["mb_s"] * wall / 1e3) if r.get("mb_s") else 0
    r["load_cpu_busy"] = (k1[CPU_LOAD][0] - k0[CPU_LOAD][0]) / TICK / wall
    r["steal"] = sum(k1[c][1] - k0[c][1] for c in k1) / TICK / wall
    return r


def start_backend(cpus):
    if listens(BACKEND):
        sys.exit(f"port {BACKEND}, where the backend is to listen, is in use")
    p = subprocess.Popen([str(KIT / "backend"), "--listen", f"127.0.0.1:{BACKEND}"],
                         preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", BACKEND), 1).close()
            return p
        except OSError:
            time.sleep(0.01)
    sys.exit("backend did not start")


def run(args):
    proxies, bins, base = load_proxies(args.only)
    scens = args.scenarios or [*SCENARIOS, "mem"]
    res = {"base": base, "date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions(bins, proxies), "args": {"reps": args.reps, "dur": args.dur},
           "kinds": {p["name"]: p["kind"] for p in proxies}, "runs": {}, "mem": {}}
    work = tempfile.mkdtemp(prefix="bench-")
    out = Path(args.out)
    for scen in [s for s in scens if s in SCENARIOS]:
        two = scen == "h1x2"
        cpus_load = {CPU_LOAD, CPU_PROXY} if two else {CPU_LOAD}
        cpus_proxy = cpus_load if two else {CPU_PROXY}
        todo = [p for p in proxies if p["kind"] != "scale" and wanted(p, scen)]
        backend = start_backend(cpus_load)
        live = {} if scen in ("full", "overload") else {"direct": (None, BACKEND)}
        try:
            for i, p in enumerate(todo):
                if scen == "h2":
                    p = dict(p, _h2=True)
                limit = LIMIT if scen in ("full", "overload") else 4096
                x = Proxy(p, bins, work, 10000 + i, 2 if two else 1, cpus_proxy, scen == "h2", limit)
                live[p["name"]] = (x, x.port)
                x.wait()
            time.sleep(1)
            dur = args.dur * SCENARIOS[scen].get("share", 1)
            names = list(live)
            for rep in range(args.reps * 3 if scen in CLOSE else args.reps):
                if rep == args.reps:
                    names = [n for n in names if n in CLOSE[scen]]
                # Interleaved, and rotated so that no proxy always follows the same one.
                for name in names[rep % len(names):] + names[:rep % len(names)]:
                    x, port = live[name]
                    r = measure(scen, x, port, dur, cpus_load)
                    res["runs"].setdefault(scen, {}).setdefault(name, []).append(r)
                    print(f"{scen} #{rep} {name:16} {r['rps']:9.0f} rps  {r['cpu_ms_per_1k']:7.2f} ms/1k  "
                          f"util {r['cpu_util']:.2f} load-cpu {r['load_cpu_busy']:.2f} steal {r['steal']:.2f} "
                          f"p50 {r.get('p50', 0):.0f} p99 {r.get('p99', 0):.0f} us  errors {r['errors']}", flush=True)
                    out.write_text(json.dumps(res))
        finally:
            for x, _ in live.values():
                if x:
                    x.stop()
            backend.terminate()
            backend.wait()
    if "mem" in scens:
        mem(proxies, bins, work, res, out)
    out.write_text(json.dumps(res))
    shutil.rmtree(work, ignore_errors=True)
    print(report(res))


def wanted(p, scen):
    if scen in p.get("skip", []) or scen not in p.get("only", [scen]):
        return False
    if scen in ("full", "overload"):
        return p["name"] in LIMITED
    if scen in ("h2", "h1x2"):
        return p["kind"] != "tcp"
    return True


def mem(proxies, bins, work, res, out):
    backend = start_backend({CPU_LOAD})
    os.sched_setaffinity(0, {CPU_LOAD})
    try:
        for i, p in enumerate(p for p in proxies if wanted(p, "mem")):
            m = res["mem"][p["name"]] = {"startup_ms": []}
            scale = p["kind"] == "scale"
            for k in range(2 if scale else 5):
                x = Proxy(p, bins, work, 11000 + i * 10 + k, 1)
                try:
                    m["startup_ms"].append(x.wait() * 1e3)
                    if k == 0:
                        m["startup_cpu_ms"] = x.cpu()[0] * 1e3
                        time.sleep(2)
                        m["idle"] = x.mem()
                        c0 = x.cpu()[0]
                        time.sleep(2)
                        m["idle_cpu_ms_per_s"] = (x.cpu()[0] - c0) * 500
                        if not scale:
                            drive("h1", x.port, 4, {CPU_LOAD})
                            time.sleep(0.5)
                            m["after_load"] = x.mem()
                            l = subprocess.Popen([str(KIT / "load"), "--addr", f"127.0.0.1:{x.port}", "--conns", "1000",
                                                  "--rate", "2000", "--spread", "--dur", "4", "--warmup", "0"], stdout=subprocess.DEVNULL)
                            time.sleep(3)
                            m["conns_1000"] = x.mem()
                            l.wait()
                finally:
                    x.stop()
            print("mem", p["name"], json.dumps(m), flush=True)
            out.write_text(json.dumps(res))
    finally:
        backend.terminate()
        backend.wait()


# ---------------------------------------------------------------- check, syscalls

def check(args):
    proxies, bins, _ = load_proxies(args.only)
    work = tempfile.mkdtemp(prefix="bench-")
    backend = start_backend({CPU_LOAD})
    bad = 0
    try:
        for i, p in enumerate(proxies):
            x = Proxy(p, bins, work, 12000 + i)
            try:
                t = x.wait(30)
                r = drive("h1", x.port, 0.5, {CPU_LOAD})
                line = f"{p['name']:20} first answer {t * 1e3:7.0f} ms, h1 errors {r['errors']}"
                if p["kind"] == "http" and "h2_only" not in p and wanted(p, "h2"):
                    line += f", h2 errors {drive('h2', x.port, 1, {CPU_LOAD})['errors']}"
                print(line)
            except (RuntimeError, subprocess.CalledProcessError) as e:
                bad += 1
                print(f"{p['name']:20} FAILED: {e}")
            finally:
                x.stop()
    finally:
        backend.terminate()
        backend.wait()
    if bad:
        sys.exit(1)
    shutil.rmtree(work, ignore_errors=True)


def syscalls(args):
    proxies, bins, _ = load_proxies(args.only)
    work = tempfile.mkdtemp(prefix="bench-")
    backend = start_backend({CPU_LOAD})
    print("| proxy | load | system calls per request | which |\n|---|---|---|---|")
    try:
        for i, p in enumerate(p for p in proxies if p["kind"] != "scale" and wanted(p, "syscalls")):
            x = Proxy(p, bins, work, 13000 + i)
            try:
                x.wait()
                for mode, extra in (("1000 rps", ["--conns", 16, "--rate", 1000]), ("closed, 32 conns", ["--conns", 32])):
                    f = Path(work) / "strace"
                    attach = [a for pid in x.pids() for a in ("-p", str(pid))]
                    s = subprocess.Popen(["strace", "-f", "-c", "-o", str(f), *attach], stderr=subprocess.DEVNULL)
                    time.sleep(0.7)
                    n = json.loads(pinned([KIT / "load", "--addr", f"127.0.0.1:{x.port}", "--dur", 2, "--warmup", 0, *extra], {CPU_LOAD}))["requests"]
                    s.send_signal(signal.SIGINT)
                    s.wait()
                    calls = {}
                    for l in f.read_text().splitlines():
                        w = l.split()
                        if len(w) >= 5 and w[0].replace(".", "").isdigit() and w[-1] != "total":
                            calls[w[-1]] = int(w[3]) / n
                    top = ", ".join(f"{k} {v:.2f}" for k, v in sorted(calls.items(), key=lambda kv: -kv[1]) if v >= 0.02)
                    print(f"| {p['name']} | {mode} | {sum(calls.values()):.1f} | {top} |", flush=True)
            finally:
                x.stop()
    finally:
        backend.terminate()
        backend.wait()


# ---------------------------------------------------------------- report

def machine():
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {"cpu": cpu[1] if cpu else "", "cores": os.cpu_count(), "kernel": os.uname().release}


def versions(bins, proxies):
    """Of the peers that are measured, and the commit of the sidecar."""
    found = {}
    for name, flag in (("envoy", "--version"), ("haproxy", "-v"), ("nginx", "-v")):
        if any(p["name"].split("-")[0] == name for p in proxies):
            said = subprocess.run([bins[name], flag], capture_output=True, text=True)
            if version := re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr):
                found[name] = version[0]
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude", "*"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    return found | {"fairlead": commit}


def mmm(v, f="{:.0f}"):
    """median (min-max)"""
    return f"{f.format(stats.median(v))} ({f.format(min(v))}–{f.format(max(v))})"


def report(res):
    o = []
    for scen, runs in res["runs"].items():
        o.append(f"\n### {scen}: {SCENARIOS[scen]['title']}\n")
        if scen == "rate":
            o.append("Latency from the time a request was due, microseconds, median (min–max) over repetitions. "
                     "`direct` is absolute; the others are what the proxy adds to `direct` in the same repetition.\n")
            o.append("| proxy | p50 | p90 | p99 | p99.9 | CPU ms / 1000 req | ×base |\n|---|---|---|---|---|---|---|")
        elif scen in ("full", "overload"):
            o.append("Latency of what is admitted, from the time it was due; refused: answered 503 at once.\n")
            o.append("| proxy | admitted/s | refused | p50 ms | p99 ms | max ms | CPU us / admitted |\n|---|---|---|---|---|---|---|")
        elif scen == "big":
            o.append("| proxy | MB/s | ×base | CPU s / GB | ×base | proxy CPU | load CPU |\n|---|---|---|---|---|---|---|")
        else:
            o.append("| proxy | requests/s | ×base | CPU ms / 1000 req | ×base | sys share | proxy CPU | load CPU | p50 / p99 ms |\n"
                     "|---|---|---|---|---|---|---|---|---|")
        for name, rs in runs.items():
            kind = res["kinds"].get(name, "http")
            b = runs.get(res["base"].get(kind, ""))
            col = lambda k: [r[k] for r in rs]
            # Ratios pair the two runs of one repetition.
            ratio = lambda k: (mmm([r[k] / s[k] for r, s in zip(rs, b) if s[k]], "{:.2f}")
                               if b and name != "direct" else "–")
            cpu = lambda k, f: mmm(col(k), f) if name != "direct" else "–"
            err = sum(col("errors"))
            tag = name + (f" ({err} errors)" if err else "")
            util, load = f"{stats.median(col('cpu_util')):.2f}", f"{stats.median(col('load_cpu_busy')):.2f}"
            if scen == "rate":
                if name == "direct":
                    lat = [mmm(col(k)) for k in ("p50", "p90", "p99", "p999")]
                else:
                    d = runs["direct"]
                    lat = [mmm([r[k] - s[k] for r, s in zip(rs, d)], "{:+.0f}") for k in ("p50", "p90", "p99", "p999")]
                row = [tag, *lat, cpu("cpu_ms_per_1k", "{:.1f}"), ratio("cpu_ms_per_1k")]
            elif scen in ("full", "overload"):
                share = mmm([r["refused"] / (r["refused"] + r["requests"]) for r in rs], "{:.1%}")
                late = [mmm([r[k] / 1e3 for r in rs], "{:.1f}") for k in ("p50", "p99", "max")]
                row = [tag, mmm(col("rps")), share, *late, cpu("cpu_ms_per_1k", "{:.1f}")]
            elif scen == "big":
                row = [tag, mmm(col("mb_s")), ratio("mb_s"), cpu("cpu_s_per_gb", "{:.3f}"), ratio("cpu_s_per_gb"), util, load]
            else:
                lat = f"{stats.median(col('p50')) / 1e3:.2f} / {stats.median(col('p99')) / 1e3:.2f}" if "p50" in rs[0] else "–"
                sys_ = f"{stats.median(col('sys_share')):.0%}" if name != "direct" else "–"
                row = [tag, mmm(col("rps")), ratio("rps"), cpu("cpu_ms_per_1k", "{:.1f}"), ratio("cpu_ms_per_1k"), sys_, util, load, lat]
            o.append("| " + " | ".join(row) + " |")
    if res["mem"]:
        o.append("\n### Memory and startup (1 worker)\n")
        o.append("RSS / PSS in MiB over the process tree.\n")
        o.append("| proxy | startup ms | CPU to start, ms | idle | after 32-conn load | at 1000 connections | KiB per connection | idle CPU ms/s |\n|---|---|---|---|---|---|---|---|")
        pair = lambda m, k: f"{m[k][0]:.1f} / {m[k][1]:.1f}" if k in m else "–"
        for name, m in res["mem"].items():
            per = f"{(m['conns_1000'][1] - m['after_load'][1]) * 1.024:.1f}" if "conns_1000" in m else "–"
            o.append(f"| {name} | {mmm(m['startup_ms'])} | {m['startup_cpu_ms']:.0f} | {pair(m, 'idle')} | {pair(m, 'after_load')} "
                     f"| {pair(m, 'conns_1000')} | {per} | {m['idle_cpu_ms_per_s']:.2f} |")
    return "\n".join(o)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("what", choices=["check", "run", "syscalls", "report"])
    a.add_argument("results", nargs="?")
    a.add_argument("--reps", type=int, default=5)
    a.add_argument("--dur", type=float, default=8)
    a.add_argument("--only", type=lambda s: s.split(","))
    a.add_argument("--scenarios", type=lambda s: s.split(","))
    a.add_argument("--out", default="results.json")
    args = a.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    if args.what == "report":
        print(report(json.loads(Path(args.results).read_text())))
    else:
        {"check": check, "run": run, "syscalls": syscalls}[args.what](args)


if __name__ == "__main__":
    main()
