"""Calls through gRPC's own xDS client, as its C-core has it: no sidecar, no Envoy.

Reads lines of JSON and answers each with a line of JSON, in order:

    {"target": "reviews.shop.svc.cluster.local:9080", "calls": 9, "metadata": {"x-tester": "yes"}}
    ["reviews-1", "reviews-2", "UNAVAILABLE: no route", ...]

An answer is the backend's x-backend, or the status of a call that failed. GRPC_XDS_BOOTSTRAP names the
operator.
"""

import json
import sys

import grpc

METHOD = "/shop.Reviews/Get"
# Long, for a busy machine; a call that meets nothing fails at once.
TIMEOUT_SECONDS = 20


def call(channel, metadata):
    stub = channel.unary_unary(METHOD)  # Without serializers: bytes in, bytes out.
    try:
        _, made = stub.with_call(b"request", timeout=TIMEOUT_SECONDS, metadata=metadata)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    return dict(made.initial_metadata()).get("x-backend", "an answer without x-backend")


def main():
    channels = {}
    for line in sys.stdin:
        asked = json.loads(line)
        target = asked["target"]
        if target not in channels:
            channels[target] = grpc.insecure_channel(f"xds:///{target}")
        metadata = tuple(asked.get("metadata", {}).items())
        answers = [call(channels[target], metadata) for _ in range(asked["calls"])]
        print(json.dumps(answers), flush=True)


main()
