# Fairlead's inner loop. `make` alone lists the targets; CONTRIBUTING.md tells how they fit together.
#
# Every build is of the whole workspace, so that demo, test, e2e and lint share one set of compiled
# dependencies; cargo builds only what changed. CARGO_TARGET_DIR is honoured everywhere.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help doctor setup check demo test e2e soak cluster-up cluster-down image lint generate doc fuzz bench bench-control-plane cost profile

export T KEEP NODES PROFILE CLUSTER_BACKEND QUICK SOURCE UPDATE

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' Makefile | awk -F '\t' '{printf "  make %-20s %s\n", $$1, $$2}'

doctor: ## prints each missing thing with its install line
	@dev/doctor

setup: ## installs what is missing (as root also Debian's packages)
	@dev/setup

check: ## format, lint and unit tests of what changed
	@dev/check

demo: ## the mesh without a cluster; KEEP=1 leaves it running
	@cargo build --workspace --locked
	@"$$(dev/target-dir)/debug/fairlead" demo

test: ## every test that needs no root; T=name runs one
	@dev/test

e2e: ## the tests that need a cluster (root); T=name runs one, KEEP=1 leaves the cluster up
	@dev/e2e

soak: ## half an hour of load with restarts, a GiB, and no operator (root); prints a table
	@dev/soak

cluster-up: ## a Kubernetes cluster on this machine (root); NODES=2
	@tests/cluster/cluster build && tests/cluster/cluster up "$${NODES:-2}"

cluster-down: ## stops it
	@tests/cluster/cluster down

image: ## container images of operator and proxy without Docker; PROFILE=release as shipped
	@dev/image

lint: ## format, clippy, shell scripts; cargo-deny and actionlint where they are installed
	@dev/lint

generate: ## writes the generated files that are committed
	@cargo build --workspace --locked --quiet
	@"$$(dev/target-dir)/debug/crdgen"
	@"$$(dev/target-dir)/debug/docgen"

doc: ## the API documentation, warnings refused
	@RUSTDOCFLAGS="-D warnings" cargo doc --workspace --locked --no-deps --document-private-items

fuzz: ## fuzzes the HTTP/1.1 codec (nightly, cargo-fuzz); T=target, SECONDS_EACH=600
	@dev/fuzz

bench: ## Fairlead beside Envoy in the same run: 20 minutes, writes bench/results and the tables; QUICK=1 takes three
	@dev/bench

bench-control-plane: ## an operator with up to 2,000 simulated sidecars, from a directory and (root) an API server; SOURCE=directory
	@dev/bench-control-plane

cost: ## what a request costs, counted by callgrind and compared with bench/cost/figures.toml; UPDATE=1 writes it
	@dev/cost

profile: ## flame graphs into target/profile, and the tables of ARCHITECTURE.md that say where the time goes (root)
	@dev/profile
