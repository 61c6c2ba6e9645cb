#!/usr/bin/env python3
"""The control plane: one operator on CPU 0; on CPU 1 a fleet of simulated sidecars, and the API server if there is one.

  control_plane.py --operator PROGRAM --fleet PROGRAM [--source directory|cluster] [--clients 100,1000,2000] [--out FILE.json]

The operator reads --services Services with ten endpoints each from a folder, or from the API server of `tests/cluster/cluster
up 0`, which has a Pod for each endpoint too, 50 of which change their status every second. What the rows mean stands in
bench/README.md. CPU is that of the operator's process.
"""
import argparse, atexit, json, os, platform, re, shutil, statistics as stats, subprocess, sys, tempfile, time
from pathlib import Path

from control_plane_source import Churn, Cluster, Folder, addresses

NAMES_EACH, TIMES, CHURN = 10, 10, 50


def pinned(cmd, cpu, **more):
    return subprocess.Popen([str(c) for c in cmd], preexec_fn=lambda: os.sched_setaffinity(0, {cpu}), **more)


class Operator:
    def __init__(self, args, log, port=0):
        listen = ["--xds-listen", f"127.0.0.1:{port}", "--admin-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
        self.process = pinned([args.operator, *args.objects.flags, *listen], 0, stdout=subprocess.PIPE, stderr=log, text=True)
        atexit.register(self.process.kill)
        for line in self.process.stdout:
            if m := re.match(r"listening xds \S+ \S*:(\d+)", line):
                self.port = int(m[1])
                return
        sys.exit(f"the operator ended at start: see {log.name}")

    def cpu(self):
        """Of all its threads, also those that have ended: the process clock of clock_getcpuclockid(3)."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def resident(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return [int(re.search(rf"{k}:\s+(\d+)", status)[1]) / 1024 for k in ("VmRSS", "VmHWM")]

    def settle(self):
        """Waits until it has worked off what came: at most a twentieth of a CPU for a second."""
        for _ in range(60):
            before = self.cpu()
            time.sleep(1)
            if self.cpu() - before < 0.05:
                return
        sys.exit("the operator does not come to rest")

    def kill(self):
        self.process.kill()
        self.process.wait()


class Fleet:
    def __init__(self, args, operator, clients, log, *flags):
        self.started = time.monotonic()
        self.process = pinned([args.fleet, "-addr", f"127.0.0.1:{operator.port}", "-n", clients, *flags], 1,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)

    def ask(self, words):
        print(words, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().split()

    def seen(self):
        """When the clients saw what is watched: the first, the median, the 99th of a hundred, the last; ns since 1970."""
        return [int(t) for t in self.process.stdout.readline().split()[2:]]

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def fed(args, clients, log, *flags):
    """A new operator with so many clients, and what it took until all had what they asked for."""
    operator = Operator(args, log)
    operator.settle()
    cpu = operator.cpu()
    fleet = Fleet(args, operator, clients, log, *flags)
    pushed = int(fleet.ask("ready")[6])
    row = {"fed_s": time.monotonic() - fleet.started, "fed_cpu_s": operator.cpu() - cpu, "pushed_mib": pushed}
    operator.settle()
    row["rss_mib"], row["peak_mib"] = operator.resident()
    return operator, fleet, row


def changes(args, operator, fleet, service, subscribers, times=TIMES):
    """Milliseconds until the write is answered, and from its begin to the first, the median, the 99th and the last of the
    subscribers; CPU a change."""
    seen, written, cpu = [], [], operator.cpu()
    for k in range(times):
        new = f"10.99.{service & 255}.{k + 1}"
        fleet.ask(f"watch {new} {subscribers}")
        start = time.time_ns()
        args.objects.endpoints(service, [*addresses(service), new])
        written.append((time.time_ns() - start) / 1e6)
        seen.append([(t - start) / 1e6 for t in fleet.seen()])
        time.sleep(0.2)
    cpu = operator.cpu() - cpu
    args.objects.endpoints(service, addresses(service))
    first, p50, p99, last = (stats.median(column) for column in zip(*seen))
    # The worst of the ten too: medians hide a hiccup.
    return {"written_ms": stats.median(written), "first_ms": first, "p50_ms": p50, "p99_ms": p99, "last_ms": last, "worst_ms": max(t[3] for t in seen), "cpu_ms": cpu * 1e3 / times}


def bulk(args, operator, fleet):
    """A ServiceRoute for each Service, written as fast as they are taken: when everybody has all of theirs."""
    operator.settle()
    fleet.ask("responses")
    cpu, mark = operator.cpu(), f"mark-{time.monotonic_ns()}"
    fleet.ask(f"watch-all rds {mark}")
    start = time.time_ns()
    args.objects.routes(args.services, mark)
    written = time.time_ns()
    first, p50, p99, last = fleet.seen()
    row = {"written_s": (written - start) / 1e9, "first_s": (first - start) / 1e9, "last_s": (last - start) / 1e9}
    operator.settle()
    total, most = (int(n) for n in fleet.ask("responses")[1:])
    return row | {"cpu_s": operator.cpu() - cpu, "responses": total, "most_responses": most, "rss_mib": operator.resident()[0]}


def restart(args, operator, fleet, log, service, away):
    """The operator is killed, something changes, and it starts again: when everybody has heard of the change."""
    new, port = f"10.98.{away}.{args.turn}", operator.port
    args.turn += 1
    fleet.ask("streams")
    operator.kill()
    args.objects.endpoints(service, [*addresses(service), new])
    time.sleep(away)
    fleet.ask(f"watch {new}")
    start = time.time_ns()
    operator = Operator(args, log, port)
    listening = time.time_ns()
    first, p50, p99, last = fleet.seen()
    row = {"listening_s": (listening - start) / 1e9} | {
        f"{k}_s": (t - listening) / 1e9 for k, t in (("first", first), ("p50", p50), ("p99", p99), ("last", last))}
    row["cpu_s"] = operator.cpu()
    operator.settle()
    row["rss_mib"], row["peak_mib"] = operator.resident()
    row["opened"], row["dialled"], row["most_in_100ms"] = (int(n) for n in fleet.ask("streams")[1:])
    return operator, row


def idle(args, log):
    """Nobody is connected: what start, Services and the churn of Pods cost."""
    started = time.monotonic()
    operator = Operator(args, log)
    row = {"start_s": time.monotonic() - started}
    operator.settle()
    row |= {"cpu_s": operator.cpu(), "rss_mib": operator.resident()[0], "peak_mib": operator.resident()[1]}
    measured = lambda seconds: (operator.cpu(), time.sleep(seconds), operator.cpu())
    before, _, after = measured(10)
    row["quiet_cpu_ms_a_s"] = (after - before) * 100
    if args.source == "cluster":
        churn = Churn(args.services, CHURN)
        time.sleep(1)
        before, _, after = measured(20)
        row |= {"churn_cpu_ms_a_s": (after - before) * 50, "churn_a_s": churn.stop(), "churned_rss_mib": operator.resident()[0]}
    operator.kill()
    return row


def sidecars(args, clients, log, say):
    """Each calls ten Services: nine of its own, and one that all call; 10 and 100 of them call two others besides."""
    common, tens, hundreds = (args.services - k for k in (1, 2, 3))
    name = "shop/svc-{}:80".format
    counts = {tens: min(10, clients), hundreds: min(100, clients), common: clients}
    operator, fleet, row = fed(args, clients, log, "-per", NAMES_EACH - 1, "-names", ",".join(name(i) for i in range(args.services - 3)),
                               "-also", ",".join(f"{name(i)}={count}" for i, count in counts.items()))
    say("fed", row)
    for service, count in counts.items():
        say(f"change_{'all' if service == common else count}", changes(args, operator, fleet, service, count))
    say("bulk", bulk(args, operator, fleet))
    # With its ServiceRoutes: what it costs then.
    say("change_all_with_routes", changes(args, operator, fleet, common, clients))
    operator, row = restart(args, operator, fleet, log, common, 0)
    say("restart", row)
    if clients == max(args.clients):
        operator, row = restart(args, operator, fleet, log, common, args.away)
        say("restart_late", row)
    fleet.stop()
    operator.kill()
    args.objects.no_routes()


def wildcard(args, clients, log, say):
    """Each asks for everything, as istio-proxy does."""
    operator, fleet, row = fed(args, clients, log, "-istio")
    say("fed", row)
    say("change_all", changes(args, operator, fleet, 7, clients))
    fleet.stop()
    operator.kill()


def step_aside(args):
    """CPU 0 is the operator's: this process leaves it, and so does all else in the network of the API server."""
    os.sched_setaffinity(0, {1})
    network = lambda pid: os.stat(f"/proc/{pid}/ns/net").st_ino
    for pid in filter(str.isdigit, os.listdir("/proc")) if args.source == "cluster" else ():
        try:
            if network(pid) == network("self"):
                for task in os.listdir(f"/proc/{pid}/task"):
                    os.sched_setaffinity(int(task), {1})
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass                                # It has ended meanwhile, or is not ours.


def machine():
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {"cores": os.cpu_count(), "cpu": model[1] if model else platform.machine(), "kernel": platform.release()}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--operator", required=True)
    a.add_argument("--fleet", required=True)
    a.add_argument("--source", choices=["directory", "cluster"], default="directory")
    a.add_argument("--clients", type=lambda s: [int(x) for x in s.split(",")], default=[100, 1000, 2000])
    a.add_argument("--wildcard", type=lambda s: [int(x) for x in s.split(",") if x], default=[100, 1000], help="numbers of clients that ask for everything")
    a.add_argument("--services", type=int, default=1000)
    a.add_argument("--away", type=int, default=20, help="seconds of the longer absence")
    a.add_argument("--crds", type=Path, default=Path(__file__).parent.parent / "charts/fairlead/files/crds")
    a.add_argument("--out", type=Path, help="written to under the name of the source; what others wrote stays")
    args = a.parse_args()
    args.turn = 1
    log = open(tempfile.mkstemp(prefix="bench-control-plane-")[1], "w")
    started = time.monotonic()
    args.objects = Cluster(args.services, sorted(args.crds.glob("*.yaml"))) if args.source == "cluster" else Folder(args.services)
    step_aside(args)
    print(f"{args.source}: {args.services} Services written in {time.monotonic() - started:.0f} s; log: {log.name}", flush=True)
    result = {}

    def say(clients, name):
        def note(part, row):
            result.setdefault(name, {}).setdefault(str(clients), {})[part] = row
            print(args.source, name, clients, part, json.dumps({k: round(v, 2) for k, v in row.items()}), flush=True)
        return note

    say(0, "idle")("idle", idle(args, log))
    churn = Churn(args.services, CHURN) if args.source == "cluster" else None
    for clients in args.clients:
        sidecars(args, clients, log, say(clients, "sidecars"))
    for clients in args.wildcard:
        wildcard(args, clients, log, say(clients, "wildcard"))
    if args.source == "directory":
        shutil.rmtree(args.objects.path)
    if churn:
        say(0, "churn")("churn", {"pods_a_s": churn.stop()})
    if args.out:
        whole = json.loads(args.out.read_text()) if args.out.exists() else {}
        head = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "services": args.services}
        args.out.write_text(json.dumps(whole | head | {args.source: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
