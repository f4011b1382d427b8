package network

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/types"
	k8sdiscovery "k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
)

// exported is what an agent says of one of its meshes on its Lease: what it federates, by the VirtualMesh of a generation.
type exported struct {
	Generation int64  `json:"generation"`
	Digest     string `json:"digest"`
}

// annotations say on this agent's Lease what its meshes federate. A mesh is left out until that is complete.
func (n *network) annotations() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[string]exported{}
	for mesh, generation := range n.exported {
		out[mesh] = exported{generation, n.exportsOf(mesh).Digest()}
	}
	if len(out) == 0 {
		return nil
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil
	}
	return map[string]string{v1alpha1.AnnotationExports: string(text)}
}

// evidence asks what home agents say of their exports. An absent Destination proves nothing by itself: a cache may be cold, or
// the hub may have been restored. An agent that is alive and says that just those it federates are to be seen proves it.
type evidence struct {
	hub client.Reader // the API server itself
	now func() time.Time

	mu   sync.Mutex
	memo map[string]said
	seen map[string]seen
}

// said is what the agents of a cluster's meshes said last, for a moment: many destinations may be gone at once.
type said struct {
	at     time.Time
	meshes map[string]exported // nil from an agent that is not known to be alive
}

// seen is what the hub's cache showed of a mesh a moment ago.
type seen struct {
	at     time.Time
	digest string
	hashes []uint64 // of the names, sorted
}

const memory = 2 * time.Second

// federatesOthers reports whether the home agent of a mesh, by the accepted spec of at least a generation, federates just what
// the hub's cache shows, or has just shown, and not the Destination of a name.
func (n *network) federatesOthers(ctx context.Context, namespace, mesh, name string, generation int64) (bool, error) {
	meshes, err := n.evidence.ask(ctx, namespace)
	if err != nil {
		return false, err
	}
	says, ok := meshes[mesh]
	if !ok || says.Generation < generation {
		return false, nil
	}
	s := n.sees(namespace, mesh)
	_, there := slices.BinarySearch(s.hashes, hashOfName(name))
	return !there && s.digest == says.Digest, nil
}

// sees returns what the hub's cache shows of a mesh. There may be many names, and many of them missing, so it is remembered for
// a moment. Two things that were once true of the same names stay evidence: nobody asks about a name that was among them.
func (n *network) sees(namespace, mesh string) seen {
	e := n.evidence
	e.mu.Lock()
	defer e.mu.Unlock()
	key := namespace + "/" + mesh
	if s, ok := e.seen[key]; ok && e.now().Sub(s.at) < memory {
		return s
	}
	s := seen{at: e.now()}
	var names []string
	for d := range n.destinations(namespace) {
		if d.Spec.Mesh == mesh {
			names = append(names, d.Name)
			s.hashes = append(s.hashes, hashOfName(d.Name))
		}
	}
	slices.Sort(s.hashes)
	s.digest = federation.DigestOf(names)
	if e.seen == nil {
		e.seen = map[string]seen{}
	}
	e.seen[key] = s
	return s
}

func hashOfName(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return h.Sum64()
}

// ask reads what an agent that is alive says on its Lease.
func (e *evidence) ask(ctx context.Context, namespace string) (map[string]exported, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m, ok := e.memo[namespace]; ok && e.now().Sub(m.at) < memory {
		return m.meshes, nil
	}
	m := said{at: e.now()}
	var lease coordinationv1.Lease
	err := e.hub.Get(ctx, types.NamespacedName{Namespace: namespace, Name: v1alpha1.AgentName}, &lease)
	if client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	if at := lease.Spec.RenewTime; err == nil && at != nil && e.now().Sub(at.Time) <= hublink.LeaseDuration {
		if json.Unmarshal([]byte(lease.Annotations[v1alpha1.AnnotationExports]), &m.meshes) != nil {
			m.meshes = nil
		}
	}
	e.memo[namespace] = m
	return m.meshes, nil
}

// resources asks the hub which kinds it serves.
func resources(hub cluster.Cluster) (*k8sdiscovery.DiscoveryClient, error) {
	return k8sdiscovery.NewDiscoveryClientForConfigAndClient(hub.GetConfig(), hub.GetHTTPClient())
}
