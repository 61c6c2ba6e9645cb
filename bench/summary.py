#!/usr/bin/env python3
"""Writes what a run of bench.py found: the table, the chart, and both into the pages that show them.

  summary.py RESULTS.json                  print the table
  summary.py RESULTS.json --chart FILE     and write the bar chart
  summary.py RESULTS.json --into FILE...   and put the table between the markers of these pages
"""
import argparse, json, re, statistics as stats
from pathlib import Path
from xml.sax.saxutils import escape

from bench import SCENARIOS

BEGIN, END = "<!-- make bench writes what follows -->", "<!-- make bench wrote this -->"

# Row: title, scenario, figure, unit, digits, and what must hold against Envoy.
ROWS = [
    ("HTTP/1.1, CPU a request", "h1", "cpu_ms_per_1k", "us", 1, 0.36),
    ("HTTP/1.1, requests a second", "h1", "rps", "", 0, 2.8),
    ("HTTP/2, CPU a request", "h2", "cpu_ms_per_1k", "us", 1, 0.55),
    ("1,000 requests/s, CPU a request", "rate", "cpu_ms_per_1k", "us", 0, 0.45),
    ("1,000 requests/s, added p50", "rate", "p50", "us", 0, 0.60),
    ("1,000 requests/s, added p99", "rate", "p99", "us", 0, 0.55),
    ("1 MiB bodies, CPU", "big", "cpu_s_per_gb", "s/GB", 3, 0.60),
    ("Opaque TCP, 1 MiB, CPU", "big", "cpu_s_per_gb", "s/GB", 3, 0.75),
]
HTTP = ["envoy", "fairlead", "fairlead-routing", "fairlead-log", "fairlead-in", "haproxy", "nginx", "floor-hyper", "floor-h1"]
TCP = {"envoy": "envoy-tcp", "fairlead": "fairlead-tcp", "haproxy": "haproxy-splice", "nginx": "nginx-tcp"}
TITLES = {"envoy": "Envoy", "fairlead": "**Fairlead**", "fairlead-routing": "routing only", "fairlead-log": "with access log",
          "fairlead-in": "inbound", "haproxy": "HAProxy", "nginx": "nginx", "floor-hyper": "bare hyper", "floor-h1": "bare codec"}


def figures(res, scen, name, key):
    """(the median, the ratios to the base in the same repetition), or None. Where noise made some run add less than
    nothing, such ratios mean nothing: then it is the one of the medians."""
    runs = res["runs"].get(scen, {})
    if name not in runs:
        return None
    base = runs.get(res["base"].get(res["kinds"].get(name, "http"), ""), [])
    added = (lambda i, run: run[key] - runs["direct"][i][key]) if scen == "rate" and key.startswith("p") else (lambda i, run: run[key])
    mine = [added(i, run) for i, run in enumerate(runs[name])]
    theirs = [added(i, run) for i, run in enumerate(base)][:len(mine)]
    if any(v <= 0 for v in mine + theirs):
        return stats.median(mine), [stats.median(mine) / stats.median(theirs)]
    return stats.median(mine), [m / b for m, b in zip(mine, theirs)]


def table(res):
    names = [n for n in HTTP if any(n in runs for runs in res["runs"].values())]
    out = ["| | " + " | ".join(TITLES[n] for n in names) + " | aim |", "|---" * (len(names) + 2) + "|"]
    for title, scen, key, unit, digits, bound in ROWS:
        cells, missed = [], False
        for name in names:
            found = figures(res, scen, TCP.get(name, "") if "TCP" in title else name, key)
            if found is None:
                cells.append("")
                continue
            value, ratios = found
            said = f"{stats.median(ratios):.2f}" if ratios and name != "envoy" else ""
            if name == "fairlead" and ratios:
                said += f"; {min(ratios):.2f}–{max(ratios):.2f}" if len(ratios) > 1 else "; of the medians"
                missed = stats.median(ratios) < bound if key == "rps" else stats.median(ratios) > bound
            cells.append(f"{value:,.{digits}f}" + (f" ({said})" if said else ""))
        sign = ">=" if key == "rps" else "<="
        if any(cells):
            out.append(f"| {title}{', ' + unit if unit else ''} | " + " | ".join(cells) + f" | {sign} {bound}{', missed' if missed else ''} |")
    mem = res.get("mem", {})
    def row(title, of, bound):
        cells = [f"{of(mem[n]):,.1f}" if n in mem and of(mem[n]) is not None else "" for n in names]
        if any(cells):
            missed = "fairlead" in mem and of(mem["fairlead"]) > bound
            out.append(f"| {title} | " + " | ".join(cells) + f" | <= {bound}{', missed' if missed else ''} |")
    row("Resident, idle, MiB", lambda m: m["idle"][0], 10)
    row("A held connection (1,000, two requests a second each), KiB", lambda m: (m["conns_1000"][1] - m["after_load"][1]) * 1.024 if "conns_1000" in m else None, 6)
    row("Start to first 200, ms", lambda m: stats.median(m["startup_ms"]), 15)
    for name, title in (("fairlead-10k-services", "Resident with 10,000 services in the cluster (Envoy is told of all, Fairlead of what is called), MiB"), ("fairlead-10k-endpoints", "Resident with one service of 10,000 endpoints, MiB")):
        if name in mem:
            envoy = mem.get({"fairlead-10k-services": "envoy-10k-clusters", "fairlead-10k-endpoints": "envoy-10k-endpoints"}[name])
            cells = {"envoy": f"{envoy['idle'][0]:,.0f}" if envoy else "", "fairlead": f"{mem[name]['idle'][0]:,.1f}"}
            out.append(f"| {title} | " + " | ".join(cells.get(n, "") for n in names) + " | |")
    pair = figures(res, "h1", "fairlead-pair", "cpu_ms_per_1k")
    if pair:
        out.append(f"\nOutbound and inbound sidecar together, all policies, against two Envoys: {pair[0]:.1f} us of CPU a request ({stats.median(pair[1]):.2f}).")
    out += [f"\n{line}" for line in (workers(res), overload(res)) if line]
    return "\n".join(out)


def workers(res):
    """What a second worker costs a request, both sharing the CPUs with load and backend."""
    runs = res["runs"].get("h1x2", {})
    if "fairlead" not in runs or "fairlead-one" not in runs:
        return None
    key = "cpu_ms_per_1k"
    ratios = [two[key] / one[key] for two, one in zip(runs["fairlead"], runs["fairlead-one"])]
    ratio = stats.median(ratios)
    return (f"Two workers on two CPUs, beside load and backend: {stats.median(r[key] for r in runs['fairlead']):.1f} us of CPU a request, "
            f"{ratio:.2f} ({min(ratios):.2f}–{max(ratios):.2f}) of what one worker takes there; aim: <= 1.1{', missed' if ratio > 1.1 else ''}.")


def overload(res):
    """How long what is admitted takes when as much comes as an endpoint takes, and when twice as much does."""
    def said(scen, name):
        runs = res["runs"].get(scen, {}).get(name)
        if not runs:
            return None
        p50, p99 = (stats.median(r[k] for r in runs) / 1e3 for k in ("p50", "p99"))
        refused = stats.median(r["refused"] / (r["refused"] + r["requests"]) for r in runs)
        return f"{p50:.1f} / {p99:.1f} ms, {refused:.0%} refused"
    rows = [(TITLES[n].strip("*"), said("full", n), said("overload", n)) for n in ("fairlead", "envoy")]
    if not all(full and over for _, full, over in rows):
        return None
    return ("Overload (at most 16 connections to an endpoint that answers after 5 ms; 16 requests may wait), p50 / p99 of what is admitted: "
            + "; ".join(f"{name} {full} at 2,000 requests/s, {over} at 4,000" for name, full, over in rows) + ".")


def caption(res):
    m = res["machine"]
    often = {scen: len(runs["fairlead"]) for scen, runs in res["runs"].items() if len(runs.get("fairlead", [])) > res["args"]["reps"]}
    more = f", of Envoy and Fairlead {max(often.values())} in {', '.join(often)}" if often else ""
    named = {"envoy": "Envoy", "haproxy": "HAProxy", "nginx": "nginx", "fairlead": "Fairlead at"}
    versions = ", ".join(f"{named[name]} {version}" for name, version in res["versions"].items() if version)
    return (f"{res['date']}, {m['cores']} CPUs ({m['cpu']}), Linux {m['kernel']}; {versions}; {res['args']['reps']} interleaved repetitions of "
            f"{res['args']['dur']:g} s{more}; 1 MiB bodies {res['args']['dur'] * SCENARIOS['big']['share']:.1f} s, one worker on a CPU of its own, all policies "
            "on, no redirection and no TLS to the operator, which runs already when the sidecar starts; Envoy has its configuration in a file; memory: one reading, all else medians, in brackets the paired ratio to Envoy, of Fairlead its least and greatest too. The other "
            "columns have fewer pairs: between them a difference of some per cent says nothing.")


def chart(res):
    bars = [(n, *found) for n in HTTP if (found := figures(res, "h1", n, "cpu_ms_per_1k"))]
    bars.sort(key=lambda bar: bar[1])
    most, width, step = max(b[1] for b in bars), 420, 26
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="660" height="{step * len(bars) + 46}" font-family="sans-serif" font-size="13">',
           '<rect width="100%" height="100%" fill="white"/>',
           '<text x="8" y="20" font-weight="bold">CPU of the proxy a request, microseconds (HTTP/1.1, 32 connections)</text>']
    for i, (name, value, ratio) in enumerate(bars):
        y = 34 + i * step
        label = {"fairlead": "Fairlead"}.get(name, TITLES[name]).strip("*")
        label = f"Fairlead, {label}" if name.startswith("fairlead-") else label
        colour = "#1f6feb" if name.startswith("fairlead") else "#8b949e"
        out.append(f'<text x="8" y="{y + 14}">{escape(label)}</text>'
                   f'<rect x="190" y="{y}" width="{max(1, value / most * width * 0.85):.0f}" height="{step - 6}" fill="{colour}"/>'
                   f'<text x="{196 + value / most * width * 0.85:.0f}" y="{y + 14}">{value:.1f}</text>')
    return "\n".join([*out, "</svg>", ""])


def put(pages, begin, text, end):
    """Writes the text between the two markers of each page."""
    for page in pages:
        old = page.read_text()
        new = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n\n{text}\n\n{end}", old, flags=re.S)
        if new == old and text not in old:
            raise SystemExit(f"{page} has no place for the table: {begin} ... {end}")
        page.write_text(new)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("results", type=Path)
    a.add_argument("--chart", type=Path)
    a.add_argument("--into", type=Path, nargs="*", default=[])
    args = a.parse_args()
    res = json.loads(args.results.read_text())
    broken = [f"{scen}, {name}" for scen, runs in res["runs"].items() for name, rs in runs.items() if any(r["errors"] for r in rs)]
    if broken:
        raise SystemExit(f"summary: calls failed, so these figures mean nothing: {'; '.join(broken)}")
    text = f"{table(res)}\n\n{caption(res)}"
    print(text)
    if args.chart:
        args.chart.write_text(chart(res))
    put(args.into, BEGIN, text, END)


if __name__ == "__main__":
    main()
