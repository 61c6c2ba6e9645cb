package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	xds "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// The waits of the sidecar, under the names that they have there.
const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 10 * time.Second
	comeAgain    = 250 * time.Millisecond
)

// client is one sidecar.
type client struct {
	i     int
	kinds []string
	subs  map[string]*subscription
	ready bool
	// Failures since the last stream that lasted.
	failures int
	// What it looks for, and which resources had it.
	watch *watch
	had   map[string]bool
	done  bool
}

// subscription is what the client wants, and has, of one type.
type subscription struct {
	names map[string]bool
	// Asked for everything, and heard an answer.
	wildcard, answered bool
	// By version; the empty one: it does not exist.
	held map[string]string
}

func newClient(i int, names []string) *client {
	c := &client{i: i, subs: map[string]*subscription{}}
	add := func(kind string, wildcard bool, names []string) {
		s := &subscription{names: map[string]bool{}, wildcard: wildcard, held: map[string]string{}}
		for _, name := range names {
			s.names[name] = true
		}
		c.kinds = append(c.kinds, kind)
		c.subs[kind] = s
	}
	if *istio {
		add(types["cds"], true, nil)
		add(types["lds"], true, nil)
		return c
	}
	for _, kind := range strings.Split(*kinds, ",") {
		add(types[kind], false, names)
	}
	return c
}

func (c *client) run() {
	for {
		opened := time.Now()
		err := c.stream()
		if time.Since(opened) >= maxBackoff {
			c.failures = 0
		}
		wait := min(firstBackoff<<min(c.failures, 10), maxBackoff)
		c.failures++
		// A server that says so itself is well; one that is not there has the same code.
		if s := status.Convert(err); s.Code() == codes.Unavailable && strings.Contains(s.Message(), "connect again") {
			wait, c.failures = comeAgain, 0
		}
		if c.i == 0 {
			fmt.Fprintln(os.Stderr, "client 0:", err)
		}
		time.Sleep(time.Duration(rand.Float64() * float64(wait)))
	}
}

func (c *client) stream() error {
	dialled.Add(1)
	conn, err := grpc.NewClient(*addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20)),
		grpc.WithReadBufferSize(8<<10), grpc.WithWriteBufferSize(4<<10))
	if err != nil {
		return err
	}
	defer conn.Close()
	s, err := xds.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(context.Background())
	if err != nil {
		return err
	}
	for at, kind := range c.kinds {
		request := c.subs[kind].request(kind)
		if at == 0 {
			request.Node = node(c.i)
		}
		if err := s.Send(request); err != nil {
			return err
		}
	}
	if _, err := s.Header(); err != nil {
		return err
	}
	openedMu.Lock()
	opened = append(opened, time.Now().UnixNano())
	openedMu.Unlock()
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		c.look(r, time.Now().UnixNano())
		responses[c.i].Add(1)
		if err := s.Send(&xds.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}); err != nil {
			return err
		}
		if err := c.take(s, r); err != nil {
			return err
		}
	}
}

// request asks for all of a type, and says what is there already.
func (s *subscription) request(kind string) *xds.DeltaDiscoveryRequest {
	r := &xds.DeltaDiscoveryRequest{TypeUrl: kind, InitialResourceVersions: map[string]string{}}
	for name := range s.names {
		r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, name)
	}
	for name, version := range s.held {
		if version != "" {
			r.InitialResourceVersions[name] = version
		}
	}
	return r
}

// look notes what is looked for.
func (c *client) look(r *xds.DeltaDiscoveryResponse, now int64) {
	w := want.Load()
	if w != c.watch {
		c.watch, c.had, c.done = w, map[string]bool{}, false
	}
	for _, res := range r.Resources {
		if res.Resource == nil {
			continue
		}
		bytesIn.Add(int64(len(res.Resource.Value)))
		if w == nil || c.done || r.TypeUrl != w.kind || !bytes.Contains(res.Resource.Value, w.text) {
			continue
		}
		c.had[res.Name] = true
		if !w.all || len(c.had) >= len(c.subs[w.kind].names) {
			c.done = true
			w.saw(now)
		}
	}
}

// take notes what has come; istio-proxy then asks for the endpoints of its clusters.
func (c *client) take(s xds.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, r *xds.DeltaDiscoveryResponse) error {
	sub := c.subs[r.TypeUrl]
	if sub == nil {
		return nil
	}
	sub.answered = true
	for _, res := range r.Resources {
		sub.held[res.Name] = res.Version
	}
	for _, name := range r.RemovedResources {
		sub.held[name] = ""
	}
	if *istio && r.TypeUrl == types["cds"] {
		if err := c.endpoints(s, r); err != nil {
			return err
		}
	}
	if c.ready {
		return nil
	}
	for _, sub := range c.subs {
		if sub.wildcard && !sub.answered || len(sub.held) < len(sub.names) {
			return nil
		}
	}
	c.ready = true
	ready.Add(1)
	return nil
}

func (c *client) endpoints(s xds.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, r *xds.DeltaDiscoveryResponse) error {
	sub := c.subs[types["eds"]]
	if sub == nil {
		sub = &subscription{names: map[string]bool{}, held: map[string]string{}}
		c.kinds = append(c.kinds, types["eds"])
		c.subs[types["eds"]] = sub
	}
	request := &xds.DeltaDiscoveryRequest{TypeUrl: types["eds"]}
	for _, res := range r.Resources {
		it := &cluster.Cluster{}
		if proto.Unmarshal(res.Resource.Value, it) != nil || it.GetType() != cluster.Cluster_EDS {
			continue
		}
		name := it.GetEdsClusterConfig().GetServiceName()
		if name == "" {
			name = it.Name
		}
		if !sub.names[name] {
			sub.names[name] = true
			request.ResourceNamesSubscribe = append(request.ResourceNamesSubscribe, name)
		}
	}
	if len(request.ResourceNamesSubscribe) == 0 {
		return nil
	}
	return s.Send(request)
}

func node(i int) *core.Node {
	if !*istio {
		return &core.Node{Id: fmt.Sprintf("%s/caller-%d", *ns, i), Cluster: *ns}
	}
	ip := fmt.Sprintf("10.78.%d.%d", 100+i/250, 1+i%250)
	md, _ := structpb.NewStruct(map[string]any{
		"NAMESPACE": *ns, "CLUSTER_ID": "Kubernetes", "NAME": fmt.Sprintf("caller-%d", i), "ISTIO_VERSION": "1.28.10",
		"INSTANCE_IPS": ip, "SERVICE_ACCOUNT": "default", "MESH_ID": "cluster.local", "LABELS": map[string]any{"app": "caller"},
	})
	return &core.Node{Id: fmt.Sprintf("sidecar~%s~caller-%d.%s~%s.svc.cluster.local", ip, i, *ns, *ns), Cluster: "caller." + *ns, Metadata: md}
}
