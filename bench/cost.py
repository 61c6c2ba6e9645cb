#!/usr/bin/env python3
"""What a request costs, counted by callgrind: instructions, allocations, clock reads, socket calls.

  cost.py [--update] [--only ROW,ROW]

Each row is fairlead-cost (bench/cost) with N and with 2N requests: (cost of 2N - cost of N) / N has no start in it. The
operator and the configuration are make bench's, all policies on. What the peers and the allocator do is not counted. The figures are
compared with bench/cost/figures.toml; more than 3 % either way fails: what became cheaper is committed, too.

The same program does the same in every run, but for the seeds of hash tables, the clock and the kernel's wake-ups; they
move the instructions by less than 0.3 %. Another C library, compiler or architecture counts otherwise, so the file says
what it was made with.
"""
import argparse, os, platform, re, socket, subprocess, sys, tempfile, time, tomllib
from pathlib import Path

import bench

FIGURES = bench.HERE / "cost/figures.toml"
TOLERANCE = 0.03

# Row: the entry of proxies.toml, the side, the protocol, connections, requests in flight on each, rounds that are N.
ROWS = {
    "outbound-http1": ("fairlead", "outbound", "http1", 32, 1, 40),
    "outbound-http2": ("fairlead", "outbound", "http2", 10, 10, 15),
    "inbound-http1": ("fairlead-in", "inbound", "http1", 32, 1, 40),
    "inbound-http2": ("fairlead-in", "inbound", "http2", 10, 10, 15),
}

# Column: the functions of the C library whose calls it counts; none: instructions.
COLUMNS = {
    "instructions": (),
    "allocations": ("malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"),
    "clock_reads": ("clock_gettime",),
    "socket_calls": ("read", "readv", "recv", "recvfrom", "recvmsg", "write", "writev", "send", "sendto", "sendmsg"),
}

# What the C library's allocator takes depends on where memory happens to lie: up to 3 %. Its calls are counted instead.
ALLOCATOR = re.compile(r"_int_|malloc|calloc|realloc|free|unlink_chunk|alloc_perturb|sysmalloc|systrim|tcache|posix_memalign|aligned_alloc")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def counted(path):
    """Of a file of callgrind: instructions outside the allocator, and the calls of each function."""
    names, calls, callee, caller, total, inclusive = {}, {}, None, None, 0, False
    for line in path.open():
        if m := re.match(r"c?fn=\((\d+)\)(?: (.*))?", line):
            if m[2]:
                names[m[1]] = re.sub(r"@.*", "", m[2]).strip()
            if line.startswith("cfn="):
                callee = m[1]
            else:
                caller = m[1]
        elif m := re.match(r"calls=(\d+)", line):
            calls[callee] = calls.get(callee, 0) + int(m[1])
            inclusive = True
        elif m := re.match(r"[-+*\d]+ (\d+)$", line):
            if not inclusive and not ALLOCATOR.match(names[caller]):
                total += int(m[1])
            inclusive = False
    by_name = {}
    for at, n in calls.items():
        name = re.sub(r"'\d+$", "", names[at])  # Recursion levels.
        by_name[name] = by_name.get(name, 0) + n
    return {c: sum(by_name.get(f, 0) for f in functions) if functions else total for c, functions in COLUMNS.items()}


def cost(row, bins, work):
    """Each column's cost of a request."""
    entry, side, speak, connections, streams, rounds = ROWS[row]
    [p], _, _ = bench.load_proxies([entry])
    folder = Path(tempfile.mkdtemp(prefix=row, dir=work))
    listen, backend, xds = free_port(), free_port(), free_port()
    values = {"FOLDER": folder, "LISTEN": listen, "BACKEND": backend, "XDS": xds, "HTTP_FILTERS": "", "POLICIES": "", "LIMIT": 4096,
              "SERVICES": "", **{"BIN_" + k: b for k, b in bins.items()}}
    values = bench.configured(p, values, speak == "http2")
    log = open(work / f"{row}.log", "w")
    operator = subprocess.Popen([bench.filled(a, values) for a in p["helper"]], stdout=log, stderr=log)
    try:
        while not bench.listens(xds):
            if operator.poll() is not None:
                sys.exit(f"cost: the operator ended at start; see {log.name}")
            time.sleep(0.05)
        n, costs = rounds * connections * streams, []
        for times in (1, 2):
            out = work / f"callgrind.{row}.{times}"
            done = subprocess.run(
                ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--toggle-collect=*Peers*turn*",
                 "--collect-atstart=yes", bins["fairlead"], "--operator", f"http://127.0.0.1:{xds}", "--side", side,
                 "--speak", speak, "--listen", f"127.0.0.1:{listen}", "--backend", f"127.0.0.1:{backend}",
                 "--connections", str(connections), "--streams", str(streams), "--rounds", str(rounds * times)],
                stdout=log, stderr=log, timeout=300)
            if done.returncode:
                log.flush()
                sys.exit(f"cost: {row} failed:\n{Path(log.name).read_text()}")
            costs.append(counted(out))
        return {c: (costs[1][c] - costs[0][c]) / n for c in COLUMNS}
    finally:
        operator.terminate()
        operator.wait()
        log.close()


def made_with():
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    return {"machine": platform.machine(), "libc": " ".join(platform.libc_ver()), "rustc": rustc}


def write(figures):
    with FIGURES.open("w") as f:
        f.write("# What a request costs: written by make cost UPDATE=1, compared by make cost. bench/README.md says how it is counted.\n")
        for table, values in {"made_with": made_with(), **figures}.items():
            f.write(f"\n[{table}]\n")
            for key, value in values.items():
                f.write(f'{key} = "{value}"\n' if isinstance(value, str) else f"{key} = {value:.{0 if key == 'instructions' else 3}f}\n")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--update", action="store_true")
    a.add_argument("--only", type=lambda s: s.split(","), default=list(ROWS))
    a.add_argument("--work", type=Path, help="where callgrind's files are left")
    args = a.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="cost-"))
    work.mkdir(parents=True, exist_ok=True)
    bins = {k: os.environ["BIN_" + k] for k in ("operator", "fairlead")}
    known = tomllib.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    here, there = made_with(), known.get("made_with")
    comparable = there == here
    print(f"{'a request':16}" + "".join(f"{c.replace('_', ' '):>24}" for c in COLUMNS))
    seen, wrong = {}, []
    for row in args.only:
        seen[row] = cost(row, bins, work)
        line = f"{row:16}"
        for column, value in seen[row].items():
            shown = f"{value:.0f}" if column == "instructions" else f"{value:.2f}"
            if (was := known.get(row, {}).get(column)) is not None:
                change = value / was - 1 if was else (1 if value > 0.005 else 0)
                shown += f" ({change:+.1%})"
                if abs(change) > TOLERANCE:
                    wrong.append(f"{row}: {column.replace('_', ' ')} {was:g} -> {value:.5g}")
            elif not args.update:
                wrong.append(f"{row}: {column} has no committed figure")
            line += f"{shown:>24}"
        print(line, flush=True)
    print(f"callgrind's files, for callgrind_annotate: {work}")
    if args.update:
        write({**{r: known[r] for r in ROWS if r in known}, **seen})
        print(f"written: {FIGURES}")
    elif not comparable:
        print(f"not compared: {FIGURES} was made with {there}, this is {here}", file=sys.stderr)
        sys.exit(1 if os.environ.get("CI") else 0)
    elif wrong:
        print("\n".join(["cost: over 3 % from bench/cost/figures.toml:", *wrong,
                         "if that is meant: make cost UPDATE=1, and say in the commit why"]), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
