"""Where the operator of control_plane.py reads its objects: a folder of files, or an API server.

Both have the same Services (ten endpoints each). The API server also has a Pod for every endpoint, and somebody who
changes their statuses all the time; there is no kubelet and no controller, so that nobody else writes.
"""
import http.client, json, multiprocessing, os, ssl, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAMESPACE, ENDPOINTS = "shop", 10
API, MESH = "/api/v1", "/apis/fairlead.dev/v1alpha1"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
ROUTES = f"{MESH}/namespaces/{NAMESPACE}/serviceroutes"
WRITERS = 8


def addresses(i):
    return [f"10.{100 + (i >> 8)}.{i & 255}.{k + 1}" for k in range(ENDPOINTS)]


def service(i):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"svc-{i}", "namespace": NAMESPACE},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}


def endpoint_slice(i, ips):
    ends = [{"addresses": [ip], "conditions": {"ready": True, "serving": True, "terminating": False}, "nodeName": "nowhere",
             "zone": "zone0", "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": f"svc-{i}-{k}"}} for k, ip in enumerate(ips)]
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": ends,
            "metadata": {"name": f"svc-{i}-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": f"svc-{i}"}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}


def route(i, mark):
    rule = {"name": "all", "backendRefs": [{"name": f"svc-{i}", "port": 80}], "timeouts": {"request": "5s"},
            "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-mark", "value": mark}]}}]}
    return {"apiVersion": "fairlead.dev/v1alpha1", "kind": "ServiceRoute", "metadata": {"name": f"svc-{i}", "namespace": NAMESPACE},
            "spec": {"parentRefs": [{"name": f"svc-{i}", "port": 80}], "rules": [rule]}}


def pod(i, k):
    """Of the size that pods have: an injected one has two containers with probes, variables and mounts."""
    container = lambda name: {
        "name": name, "image": f"registry.example/shop/{name}:1.2.3", "ports": [{"containerPort": 8080, "name": "http"}],
        "env": [{"name": f"SETTING_{e}", "value": f"http://svc-{e}.shop:80"} for e in range(10)],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}}, "livenessProbe": {"httpGet": {"path": "/live", "port": 8080}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/config"}, {"name": "scratch", "mountPath": "/tmp"}]}
    return {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": f"svc-{i}-{k}", "namespace": NAMESPACE, "labels": {"app": f"svc-{i}", "version": "v1", "pod-template-hash": "abc"},
                         "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}},
            "spec": {"nodeName": "nowhere", "serviceAccountName": "default", "automountServiceAccountToken": False,
                     "initContainers": [{**container("fairlead-proxy"), "restartPolicy": "Always"}], "containers": [container("app"), container("helper")],
                     "volumes": [{"name": "config", "configMap": {"name": f"svc-{i}"}}, {"name": "scratch", "emptyDir": {}}]}}


def pod_status(ip, restarts):
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ready = "True" if restarts % 2 == 0 else "False"
    told = lambda name: {"name": name, "ready": ready == "True", "restartCount": restarts, "image": f"registry.example/shop/{name}:1.2.3",
                         "imageID": "sha256:0123456789abcdef", "started": True, "containerID": f"containerd://{restarts}", "state": {"running": {"startedAt": now}}}
    return {"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "10.77.0.9", "startTime": now,
                       "conditions": [{"type": t, "status": ready, "lastTransitionTime": now}
                                      for t in ("Initialized", "Ready", "ContainersReady", "PodScheduled")],
                       "initContainerStatuses": [told("fairlead-proxy")], "containerStatuses": [told("app"), told("helper")]}}


class Folder:
    """YAML is a superset of JSON. A new file takes the place of the old one, as editors and git do it."""

    def __init__(self, services):
        self.path = Path(tempfile.mkdtemp(prefix="bench-source-"))
        self.flags = ["--source", self.path]
        self.write("services", [{**it, "spec": {**it["spec"], "clusterIP": f"10.96.{i >> 8}.{i & 255}"}} for i, it in ((i, service(i)) for i in range(services))])
        for i in range(services):
            self.endpoints(i, addresses(i))

    def write(self, name, objects):
        draft = self.path / f".{name}.draft"
        draft.write_text("\n---\n".join(map(json.dumps, objects)))
        draft.rename(self.path / f"{name}.yaml")

    def endpoints(self, i, ips):
        self.write(f"svc-{i}", [endpoint_slice(i, ips)])

    def routes(self, count, mark):
        self.write("routes", [route(i, mark) for i in range(count)])

    def no_routes(self):
        self.write("routes", [])


class Caller:
    """One connection to the API server of KUBECONFIG, whose one cluster and user are written as tests/cluster does."""

    def __init__(self):
        text = Path(os.environ["KUBECONFIG"]).read_text()
        of = lambda key: text.split(f"{key}: ")[1].split("}")[0].split(",")[0].strip('"')
        context = ssl.create_default_context(cafile=of("certificate-authority"))
        context.load_cert_chain(of("client-certificate"), of("client-key"))
        self.connection = http.client.HTTPSConnection(of("server").removeprefix("https://"), context=context, timeout=60)
        self.called = time.monotonic()

    def call(self, method, path, body=None, kind="application/json", missing=False):
        if time.monotonic() - self.called > 30:
            self.connection.close()             # The API server is about to, and it is opened again by itself.
        self.called = time.monotonic()
        self.connection.request(method, path, None if body is None else json.dumps(body), {"content-type": kind})
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 300 and answer.status != 409 and not (missing and answer.status == 404):
            raise SystemExit(f"{method} {path}: {answer.status} {text[:300]}")
        return answer.status

    def merge(self, path, body, missing=False):
        return self.call("PATCH", path, body, "application/merge-patch+json", missing)


def in_parallel(calls):
    """Each of the calls gets a caller."""
    calls = list(calls)
    share = lambda w: [call(caller) for caller in [Caller()] for call in calls[w::WRITERS]]
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(share, range(WRITERS)))


class Cluster:
    """The API server of `tests/cluster/cluster up 0`, in whose network this runs."""

    def __init__(self, services, crds):
        self.flags = ["--identity", "none"]
        self.services, self.caller = services, Caller()
        for name in (NAMESPACE, "fairlead-system"):
            self.caller.call("POST", f"{API}/namespaces", {"metadata": {"name": name}})
            self.caller.call("POST", f"{API}/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
        for crd in crds:
            # Server-side apply takes YAML.
            self.caller.connection.request("PATCH", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd.stem}.fairlead.dev?fieldManager=bench",
                                           crd.read_bytes(), {"content-type": "application/apply-patch+yaml"})
            answer = self.caller.connection.getresponse()
            if (text := answer.read()) and answer.status >= 300:
                raise SystemExit(f"{crd}: {text[:300]}")
        in_parallel((lambda caller, i=i: (caller.call("POST", f"{API}/namespaces/{NAMESPACE}/services", service(i)),
                                          caller.call("POST", SLICES, endpoint_slice(i, addresses(i))))) for i in range(services))
        in_parallel((lambda caller, i=i, k=k, ip=ip: (caller.call("POST", f"{API}/namespaces/{NAMESPACE}/pods", pod(i, k)),
                                                      caller.merge(f"{API}/namespaces/{NAMESPACE}/pods/svc-{i}-{k}/status", pod_status(ip, 0))))
                    for i in range(services) for k, ip in enumerate(addresses(i)))

    def endpoints(self, i, ips):
        self.caller.merge(f"{SLICES}/svc-{i}-1", {"endpoints": endpoint_slice(i, ips)["endpoints"]})

    def routes(self, count, mark):
        def put(caller, i):
            if caller.merge(f"{ROUTES}/svc-{i}", {"spec": route(i, mark)["spec"]}, missing=True) == 404:
                caller.call("POST", ROUTES, route(i, mark))
        in_parallel((lambda caller, i=i: put(caller, i)) for i in range(count))

    def no_routes(self):
        self.caller.call("DELETE", ROUTES)


class Churn:
    """Changes the status of so many pods a second, in a process of its own, until it is stopped."""

    def __init__(self, services, rate):
        self.done, self.stopping = multiprocessing.Value("q", 0), multiprocessing.Event()
        self.started = time.monotonic()
        self.process = multiprocessing.Process(target=self.run, args=(services, rate), daemon=True)
        self.process.start()

    def run(self, services, rate):
        caller = Caller()
        while not self.stopping.is_set():
            turn, at = divmod(self.done.value, services * ENDPOINTS)
            # Pod after pod of different Services, as they come in a cluster.
            i, k = at % services, at // services
            caller.merge(f"{API}/namespaces/{NAMESPACE}/pods/svc-{i}-{k}/status", pod_status(addresses(i)[k], turn + 1))
            self.done.value += 1
            time.sleep(max(0.0, self.started + self.done.value / rate - time.monotonic()))

    def stop(self):
        self.stopping.set()
        self.process.join()
        return self.done.value / (time.monotonic() - self.started)
