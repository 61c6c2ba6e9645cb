#!/usr/bin/env python3
"""The control plane: one operator on CPU 0, and a fleet of simulated sidecars on CPU 1, which subscribe by delta ADS.

  control_plane.py --operator PROGRAM --fleet PROGRAM [--clients 100,1000,2000] [--services 1000] [--out FILE.json]

The operator reads a folder of --services Services with ten endpoints each. Of each number of clients it is asked: how
long, and how much CPU, until all have what they asked for; ten changes of one EndpointSlice, from the write of its file
to the push that each subscriber sees; the same with ten subscribers; what happens when the operator starts anew and all
come back. CPU is that of the operator's process.
"""
import argparse, json, os, re, shutil, socket, statistics as stats, subprocess, sys, tempfile, time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def slice_of(i, addresses):
    ends = "".join(f"- {{addresses: [{a}], conditions: {{ready: true}}}}\n" for a in addresses)
    return (f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: svc-{i}-1, namespace: shop, "
            f"labels: {{kubernetes.io/service-name: svc-{i}}}}}\naddressType: IPv4\n"
            f"ports: [{{name: http, port: 8080}}]\nendpoints:\n{ends}")


def addresses(i):
    return [f"10.{100 + (i >> 8)}.{i & 255}.{k + 1}" for k in range(10)]


def write(folder, name, text):
    """As editors and git do: a new file takes the place of the old one."""
    draft = folder / f".{name}.draft"
    draft.write_text(text)
    draft.rename(folder / name)


def fill(folder, services):
    """So many Services with ten endpoints each."""
    write(folder, "services.yaml", "---\n".join(
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: svc-{i}, namespace: shop}}\n"
        f"spec: {{clusterIP: 10.96.{i >> 8}.{i & 255}, ports: [{{name: http, port: 80}}]}}\n" for i in range(services)))
    for i in range(services):
        write(folder, f"svc-{i}.yaml", slice_of(i, addresses(i)))


def pinned(cmd, cpu, **more):
    return subprocess.Popen([str(c) for c in cmd], preexec_fn=lambda: os.sched_setaffinity(0, {cpu}), **more)


class Operator:
    def __init__(self, program, folder, log, port=0):
        self.process = pinned([program, "--source", folder, "--xds-listen", f"127.0.0.1:{port}", "--admin-listen", "127.0.0.1:0",
                               "--metrics-listen", "127.0.0.1:0"], 0, stdout=subprocess.PIPE, stderr=log, text=True)
        for line in self.process.stdout:
            if m := re.match(r"listening xds \S+ \S*:(\d+)", line):
                self.port = int(m[1])
                return
        sys.exit("the operator ended at start")

    def cpu(self):
        run = 0
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            run += int(Path(f"/proc/{self.process.pid}/task/{task}/schedstat").read_text().split()[0])
        return run / 1e9

    def resident(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return [int(re.search(rf"{k}:\s+(\d+)", status)[1]) / 1024 for k in ("VmRSS", "VmHWM")]

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Fleet:
    def __init__(self, program, port, clients, names, per, log):
        self.process = pinned([program, "-addr", f"127.0.0.1:{port}", "-n", clients, "-per", per, "-eds", ",".join(names)], 1,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)

    def ask(self, words):
        print(words, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().split()

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def changes(operator, fleet, folder, service, subscribers, times=10):
    """Milliseconds from the write to the first, the median, the 99th and the last of the subscribers; CPU a change."""
    seen, cpu = [], operator.cpu()
    for k in range(times):
        new = f"10.99.{service & 255}.{k + 1}"
        fleet.ask(f"watch {new} {subscribers}")
        start = time.time_ns()
        write(folder, f"svc-{service}.yaml", slice_of(service, [*addresses(service), new]))
        at = [int(t) for t in fleet.process.stdout.readline().split()[2:]]
        seen.append([(t - start) / 1e6 for t in at])
        time.sleep(0.2)
    first, p50, p99, last = (stats.median(column) for column in zip(*seen))
    return {"first_ms": first, "p50_ms": p50, "p99_ms": p99, "last_ms": last, "cpu_ms": (operator.cpu() - cpu) * 1e3 / times}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--operator", required=True)
    a.add_argument("--fleet", required=True)
    a.add_argument("--clients", type=lambda s: [int(x) for x in s.split(",")], default=[100, 1000, 2000])
    a.add_argument("--services", type=int, default=1000)
    a.add_argument("--out", type=Path)
    args = a.parse_args()
    work = Path(tempfile.mkdtemp(prefix="bench-"))
    folder, log = work / "source", open(work / "log", "w")
    folder.mkdir()
    fill(folder, args.services)
    names = [f"shop/svc-{i}:80" for i in range(args.services)]
    result = {"date": time.strftime("%Y-%m-%d"), "services": args.services}

    started = time.monotonic()
    operator = Operator(args.operator, folder, log)
    result["start_s"] = time.monotonic() - started
    time.sleep(1)
    result["idle"] = {"cpu_s": operator.cpu(), "rss_mib": operator.resident()[0]}
    operator.stop()
    print(json.dumps(result), flush=True)

    for clients in args.clients:
        # Ten names each. Shared: the same ten for all. Spread: client i from name 10 i on, round and round.
        for mode, those in (("shared", names[:10]), ("spread", names)):
            operator = Operator(args.operator, folder, log)
            cpu, started = operator.cpu(), time.monotonic()
            fleet = Fleet(args.fleet, operator.port, clients, those, 10, log)
            fleet.ask("ready")
            row = {"fed_s": time.monotonic() - started, "fed_cpu_s": operator.cpu() - cpu, "rss_mib": operator.resident()[0]}
            subscribers = clients if mode == "shared" else max(1, clients * 10 // args.services)
            row["subscribers"] = subscribers
            row |= changes(operator, fleet, folder, 3, subscribers)
            row["rss_mib"], row["peak_mib"] = operator.resident()
            result[f"{clients}-{mode}"] = row
            print(clients, mode, json.dumps({k: round(v, 2) for k, v in row.items()}), flush=True)
            if mode == "spread":
                port = operator.port
                operator.stop()
                started = time.monotonic()
                operator = Operator(args.operator, folder, log, port)
                new = "10.98.3.1"
                fleet.ask(f"watch {new} {subscribers}")
                write(folder, "svc-3.yaml", slice_of(3, [*addresses(3), new]))
                fleet.process.stdout.readline()
                result[f"{clients}-restart"] = {"heard_again_s": time.monotonic() - started, "cpu_s": operator.cpu()}
                print(clients, "restart", json.dumps(result[f"{clients}-restart"]), flush=True)
            fleet.stop()
            operator.stop()
            write(folder, "svc-3.yaml", slice_of(3, addresses(3)))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
