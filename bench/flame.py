#!/usr/bin/env python3
"""Where the time goes: flame graphs of the data path and of the control plane, and a table of both by what it is for.

  flame.py --into PAGE --out FOLDER [--seconds 10] [--only data-path,control-plane]

Load as make bench makes it on one CPU, the program under perf's clock on the other. The programs are make cost's;
perf copies the stack at each sample (--call-graph dwarf), so that no frame pointer changes the code. What was inlined is
put back by addr2line: most of it is. A sample counts for the innermost part that has a name
below: a memcpy that the codec calls is a move, a hash that the routing inlined is routing.
"""
import argparse, json, os, re, shutil, subprocess, sys, tempfile, time
from collections import Counter
from pathlib import Path

import bench, control_plane, control_plane_source
from control_plane_source import Folder

BEGIN, END = "<!-- make profile writes what follows -->", "<!-- make profile wrote this -->"

# Where a stack is in the kernel: the first of these that is in it. Loopback delivers in the writer's call.
KERNEL = [
    ("kernel: write, and loopback's delivery", r"(__x64_sys_(write|writev|sendto|sendmsg)|do_writev|ksys_write)$"),
    ("kernel: read", r"(__x64_sys_(read|readv|recvfrom|recvmsg)|do_readv|ksys_read)$"),
    ("kernel: wait for events", r"__x64_sys_epoll_(wait|pwait|pwait2)$"),
    ("kernel: files", r"__x64_sys_(openat|newfstatat|statx|stat|getdents64|close|inotify_add_watch|lseek)$"),
    ("kernel: other threads", r"__x64_sys_futex$"),
    ("kernel: the rest", r""),
]

# Functions of the C library and the vDSO.
LIBRARY = [
    ("allocator", r"^(_*(libc_)?(malloc|calloc|realloc|free|cfree|memalign)|_int_|malloc_|unlink_chunk|tcache_|sysmalloc|__rdl_|__rust_(de|re)?alloc|posix_memalign|aligned_alloc)"),
    ("moves and fills of memory", r"^_*mem(move|cpy|set|pcpy)"),
    ("clock", r"clock_gettime|\[vdso\]|^__vdso"),
    ("on the way into the kernel", r"^(_*(read|write|writev|send|recv|epoll_wait|epoll_pwait|syscall)|__GI___(read|write|send|recv)|__pthread_(en|dis)able_asynccancel|__internal_syscall)"),
]

# Source files, of the innermost frame that is in one of them.
DATA_PATH = [
    ("codec", r"sidecar/src/(http1|body|buffers)|/httparse-|/memchr-"),
    ("routing, retries, deadlines across hops", r"sidecar/src/(route|matcher|retry|hops|said|config|outbound/hop)"),
    ("balancing, ejection, connection limits", r"sidecar/src/(cluster|pool)"),
    ("metrics, access log", r"sidecar/src/(metrics|access_log)"),
    ("rate limits", r"sidecar/src/rate_limit"),
    ("the request's story: accept, exchange, attempt", r"sidecar/src/"),
    ("timers", r"/tokio-[^/]*/src/(runtime/)?time"),
    ("runtime and sockets", r"/(tokio|mio|socket2)-"),
    ("HTTP/2", r"/(h2|hyper|hyper-util|tokio-util)-"),
]
CONTROL_PLANE = [
    ("reading objects", r"operator/src/(watch|yaml)|/(serde-saphyr|saphyr-parser|saphyr[^/]*|granit-parser|notify|serde_core|serde|serde_json|k8s-openapi|kube[^/]*)-"),
    ("compiling", r"operator/src/model|crds/src/"),
    ("encoding resources", r"operator/src/xds/(encode|snapshot|resource)"),
    ("sessions: who gets what", r"operator/src/xds"),
    ("statuses", r"operator/src/status"),
    ("protobuf", r"/(prost|prost-types|envoy-types|tonic-prost)-"),
    ("gRPC and HTTP/2", r"/(tonic|h2|hyper|hyper-util|tokio-util|tower[^/]*|http-body[^/]*)-"),
    ("the rest of the operator", r"operator/src/"),
    ("runtime and sockets", r"/(tokio|mio|socket2|tokio-stream|futures-[^/]*)-"),
]


# ---------------------------------------------------------------- stacks

class Lines:
    """What an address of a program is, what was inlined there included."""

    def __init__(self, program):
        self.program, self.known = program, {}
        headers = subprocess.run(["readelf", "-lW", program], capture_output=True, text=True, check=True).stdout
        loads = re.findall(r"LOAD\s+0x(\w+)\s+0x(\w+)\s+0x\w+\s+0x(\w+)", headers)
        self.loads = [tuple(int(x, 16) for x in load) for load in loads]

    def address(self, offset):
        """perf tells offsets in the file."""
        return next((offset - at + address for at, address, size in self.loads if at <= offset < at + size), offset)

    def learn(self, offsets):
        asked = {self.address(o): o for o in offsets}
        done = subprocess.run(["addr2line", "-e", self.program, "-a", "-i", "-f", "-C"], text=True, check=True, capture_output=True,
                              input="".join(f"{a:#x}\n" for a in asked))
        frames = None
        lines = iter(done.stdout.splitlines())
        for line in lines:
            if re.fullmatch(r"0x[0-9a-f]+", line):
                frames = self.known[asked[int(line, 16)]] = []
            else:
                frames.append((short(line), next(lines)))

    def frames(self, offset):
        return self.known.get(offset, [])


def short(name):
    name = re.sub(r"::h[0-9a-f]{16}$", "", name)
    name = re.sub(r"\[[0-9a-f]{8,16}\]", "", name)
    return name.replace(";", ",")


def stacks(data, program):
    """Of a recording: (frames from the innermost on, each a function with its file, or its library)."""
    text = subprocess.run(["perf", "script", "-i", data, "--no-inline", "-F", "ip,sym,dso"], capture_output=True, text=True, check=True).stdout
    raw = []
    for block in text.split("\n\n"):
        frames = re.findall(r"^\s*([0-9a-f]+) (.*) \((.*)\)$", block, re.M)
        if frames:
            raw.append([(int(ip, 16), sym, dso) for ip, sym, dso in frames])
    lines = Lines(program)
    lines.learn(sorted({ip - (i > 0) for stack in raw for i, (ip, _, dso) in enumerate(stack) if dso == program}))
    for stack in raw:
        out = []
        for i, (ip, sym, dso) in enumerate(stack):
            if dso == program:
                # A return address stands behind its call.
                out.extend(lines.frames(ip - (i > 0)) or [(short(sym), dso)])
            else:
                out.append((short(sym), dso))
        yield out


def category(stack, files):
    if "kernel" in stack[0][1]:
        return next(name for name, what in KERNEL if any(re.match(what, function) for function, _ in stack))
    for function, file in stack:
        if file.endswith((".so.6", ".so.2", "[vdso]")) or "alloc" in function:
            for name, what in LIBRARY:
                if re.search(what, function) or re.search(what, file):
                    return name
        for name, what in files:
            if re.search(what, file):
                return name
    return "not known"


def draw(all_stacks, out, title):
    folded = Counter()
    for stack in all_stacks:
        folded[";".join(function + ("_[k]" if "kernel" in dso else "") for function, dso in reversed(stack))] += 1
    text = "".join(f"{stack} {n}\n" for stack, n in folded.items())
    svg = subprocess.run([os.environ["BIN_flamegraph"], "--title", title, "--colors", "rust", "--width", "1800"],
                         input=text, capture_output=True, text=True, check=True).stdout
    out.write_text(svg)


def record(pid, seconds, data):
    return subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "997", "--call-graph", "dwarf,16384",
                             "-p", str(pid), "-o", data, "--", "sleep", str(seconds)])


def shares(data, program, files, out, title):
    seen = list(stacks(data, program))
    draw(seen, out, title)
    counted = Counter(category(stack, files) for stack in seen)
    return {name: n / len(seen) for name, n in counted.most_common()}, len(seen)


# ---------------------------------------------------------------- what is looked at

def data_path(args):
    [p], bins, _ = bench.load_proxies(["fairlead"])
    work = tempfile.mkdtemp(prefix="profile-")
    backend = bench.start_backend({bench.CPU_LOAD})
    proxy = bench.Proxy(p, bins, work, 10000)
    try:
        proxy.wait()
        measured = bench.measure("h1", proxy, proxy.port, args.seconds, {bench.CPU_LOAD})
        data = args.out / "data-path.perf"
        perf = record(proxy.procs[-1].pid, args.seconds, data)
        bench.drive("h1", proxy.port, args.seconds, {bench.CPU_LOAD})
        perf.wait()
    finally:
        proxy.stop()
        backend.terminate()
        backend.wait()
        shutil.rmtree(work, ignore_errors=True)
    found, samples = shares(data, bins["fairlead"], DATA_PATH, args.out / "data-path.svg",
                            "fairlead-proxy: HTTP/1.1, 32 connections, all policies")
    return {"unit": "us", "each": measured["cpu_ms_per_1k"], "samples": samples, "shares": found}


def control(args):
    log = open(args.out / "control-plane.log", "w")
    look = argparse.Namespace(operator=os.environ["BIN_operator"], fleet=os.environ["BIN_fleet"], services=1000, source="directory")
    look.objects = control_plane_source.Folder(look.services)
    names = ",".join(f"shop/svc-{i}:80" for i in range(10))
    operator, fleet, _ = control_plane.fed(look, 1000, log, "-per", "10", "-names", names)
    try:
        times = args.seconds * 3
        quiet = control_plane.changes(look, operator, fleet, 3, 1000, times)
        operator.settle()
        data = args.out / "control-plane.perf"
        perf = record(operator.process.pid, 600, data)
        control_plane.changes(look, operator, fleet, 3, 1000, times)
        perf.terminate()
        perf.wait()
    finally:
        fleet.stop()
        operator.kill()
        shutil.rmtree(look.objects.path, ignore_errors=True)
    found, samples = shares(data, look.operator, CONTROL_PLANE, args.out / "control-plane.svg",
                            "fairlead-operator: changes of one EndpointSlice, 1,000 subscribers")
    return {"unit": "ms", "each": quiet["cpu_ms"], "samples": samples, "shares": found}


def tables(result):
    out = []
    for key, title in (("data-path", "A small HTTP/1.1 request, all policies on"),
                       ("control-plane", "A change of one EndpointSlice that 1,000 sidecars follow")):
        if key not in result:
            continue
        r = result[key]
        out += [f"| {title}: {r['each']:.1f} {r['unit']} of CPU | {r['unit']} | % |", "|---|---|---|"]
        small = 0
        for name, share in sorted(r["shares"].items(), key=lambda item: -item[1]):
            if share < 0.005:
                small += share
            else:
                out.append(f"| {name} | {share * r['each']:.1f} | {share:.0%} |")
        out += [f"| less than half a per cent each | {small * r['each']:.1f} | {small:.0%} |", ""]
    m = bench.machine()
    out.append(f"{time.strftime('%Y-%m-%d')}, {m['cores']} CPUs ({m['cpu']}), Linux {m['kernel']}; "
               + ", ".join(f"{r['samples']:,} samples of the {key.replace('-', ' ')}" for key, r in result.items()) + ".")
    return "\n".join(out)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--out", type=Path, required=True)
    a.add_argument("--into", type=Path)
    a.add_argument("--seconds", type=int, default=10)
    a.add_argument("--only", type=lambda s: s.split(","), default=["data-path", "control-plane"])
    args = a.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    looks = {"data-path": data_path, "control-plane": control}
    result = {name: looks[name](args) for name in args.only}
    (args.out / "shares.json").write_text(json.dumps(result, indent=1))
    text = tables(result)
    print(text)
    for name in args.only:
        print(f"{args.out / name}.svg")
    if args.into and len(result) == len(looks):
        old = args.into.read_text()
        new = re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n\n{text}\n\n{END}", old, flags=re.S)
        if new == old and text not in old:
            sys.exit(f"{args.into} has no place for the table: {BEGIN} ... {END}")
        args.into.write_text(new)


if __name__ == "__main__":
    main()
