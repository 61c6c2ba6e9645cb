#!/usr/bin/env python3
"""Writes what control_plane.py found: the table, and the table into the pages that show it.

  control_plane_table.py RESULTS.json                  print the table
  control_plane_table.py RESULTS.json --into FILE...   and put it between the markers of these pages
"""
import argparse, json
from pathlib import Path

from summary import put

BEGIN, END = "<!-- make bench-control-plane writes what follows -->", "<!-- make bench-control-plane wrote this -->"
SOURCES = {"directory": "directory", "cluster": "API server"}

# Row: title, what the fleet did, its part, the cell, the aim, and what of it a run with 1,000 must not exceed.
ROWS = [
    ("Each calls 10 services: all fed, s (CPU s)", "sidecars", "fed", "{fed_s:.2f} ({fed_cpu_s:.2f})", "<= 2 (2) for 1,000", {"fed_s": 2, "fed_cpu_s": 2}),
    ("resident, MiB", "sidecars", "fed", "{rss_mib:.0f}", "<= 150, 300 for 2,000", {"rss_mib": 150}),
    ("An endpoint changes, all have it: written; first / p50 / p99, ms", "sidecars", "change_all", "{written_ms:.1f}; {first_ms:.1f} / {p50_ms:.0f} / {p99_ms:.0f}", "<= 10 / - / 100 for 1,000", {"first_ms": 10, "p99_ms": 100}),
    ("CPU of it, ms", "sidecars", "change_all", "{cpu_ms:.1f}", "<= 65 for 1,000", {"cpu_ms": 65}),
    ("100 have it: written; first / p50 / p99, ms", "sidecars", "change_100", "{written_ms:.1f}; {first_ms:.1f} / {p50_ms:.1f} / {p99_ms:.1f}", "", {}),
    ("CPU of it, ms", "sidecars", "change_100", "{cpu_ms:.1f}", "", {}),
    ("10 have it: written; first / p50 / p99, ms", "sidecars", "change_10", "{written_ms:.1f}; {first_ms:.1f} / {p50_ms:.1f} / {p99_ms:.1f}", "p99 <= 15 for 1,000", {"p99_ms": 15}),
    ("CPU of it, ms", "sidecars", "change_10", "{cpu_ms:.1f}", "as who has it", {}),
    ("A ServiceRoute for each Service at once: written, all have theirs, s (CPU s)", "sidecars", "bulk", "{written_s:.1f}, {last_s:.1f} ({cpu_s:.1f})", "", {}),
    ("most responses that a sidecar got", "sidecars", "bulk", "{most_responses}", "few", {}),
    ("Killed and started: its port is open after, s; from then p50 / all are up to date, s (CPU s)", "sidecars", "restart", "{listening_s:.1f}; {p50_s:.1f} / {last_s:.1f} ({cpu_s:.1f})", "", {}),
    ("peak, MiB; most streams opened in 100 ms", "sidecars", "restart", "{peak_mib:.0f}; {most_in_100ms}", "", {}),
    ("Away for long: the same", "sidecars", "restart_late", "{listening_s:.1f}; {p50_s:.1f} / {last_s:.1f} ({cpu_s:.1f})", "", {}),
    ("peak, MiB; most streams opened in 100 ms", "sidecars", "restart_late", "{peak_mib:.0f}; {most_in_100ms}", "", {}),
    ("Each asks for all services: all fed, s (CPU s)", "wildcard", "fed", "{fed_s:.1f} ({fed_cpu_s:.1f})", "CPU <= 20 for 1,000", {"fed_cpu_s": 20}),
    ("resident, MiB", "wildcard", "fed", "{rss_mib:.0f}", "", {}),
    ("an endpoint changes: first / p50 / p99, ms; CPU", "wildcard", "change_all", "{first_ms:.1f} / {p50_ms:.0f} / {p99_ms:.0f}; {cpu_ms:.0f}", "", {}),
]


def table(res):
    columns = [(source, clients) for source in SOURCES if source in res for clients in res[source]["sidecars"]]
    out = ["| sidecars, source | " + " | ".join(f"{int(clients):,}, {SOURCES[source]}" for source, clients in columns) + " | aim |",
           "|---" * (len(columns) + 2) + "|"]
    for title, did, part, cell, aim, most in ROWS:
        rows = [res[source].get(did, {}).get(clients, {}).get(part) for source, clients in columns]
        if any(rows):
            missed = [SOURCES[source] for (source, clients), row in zip(columns, rows)
                      if row and clients == "1000" and any(row[key] > bound for key, bound in most.items())]
            aim += "".join(f", missed: {source}" for source in missed)
            out.append(f"| {title} | " + " | ".join(cell.format(**row) if row else "" for row in rows) + f" | {aim} |")
    return "\n".join(out)


def caption(res):
    said = []
    for source, title in SOURCES.items():
        if source not in res:
            continue
        idle = res[source]["idle"]["0"]["idle"]
        text = (f"Nobody connected, {title}: ready after {idle['start_s']:.1f} s, {idle['rss_mib']:.0f} MiB resident (aim <= 40), "
                f"{idle['quiet_cpu_ms_a_s']:.1f} ms of CPU a second")
        if "churn_a_s" in idle:
            text += f", and {idle['churn_cpu_ms_a_s']:.1f} while {idle['churn_a_s']:.0f} of {res['services'] * 10:,} Pods change their status every second, as they do all the time"
        said.append(text + ".")
    m = res["machine"]
    said.append(f"\n{res['date']}, {m['cores']} CPUs ({m['cpu']}), Linux {m['kernel']}; {res['services']:,} Services of ten endpoints, the operator on a CPU of its own, "
                "everything else on another; no TLS and no token reviews; changes: medians of ten.")
    return "\n".join(said)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("results", type=Path)
    a.add_argument("--into", type=Path, nargs="*", default=[])
    args = a.parse_args()
    res = json.loads(args.results.read_text())
    text = f"{table(res)}\n\n{caption(res)}"
    print(text)
    put(args.into, BEGIN, text, END)


if __name__ == "__main__":
    main()
