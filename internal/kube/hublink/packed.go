package hublink

import (
	"strings"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube/compact"
)

// word is a string that is held once, however often it occurs.
type word = unique.Handle[string]

// packed is what the cache holds of a Destination of another cluster, without what StripForeign removes. A map of few labels
// takes three times the memory of a list.
type packed struct {
	namespace, cluster, mesh word
	serviceIn, kind          word
	name, service, version   string
	created                  metav1.Time
	generation               int64
	labels                   []label
	ports                    []port
	identities               []string
	dataPlanes               []word
	federation               *v1alpha1.AppliedFederation
	notHeld                  bool // it is bare
}

type label struct {
	key   word
	value string
}

type port struct {
	name, protocol, app, target word
	number, node                int32
}

// Pack packs what StripForeign has left of Destinations. It is for package compact.
func Pack(o client.Object) compact.Packed {
	d, ok := o.(*v1alpha1.Destination)
	if !ok || d.UID != "" {
		return nil
	}
	s := &d.Spec.KubeService
	p := &packed{
		namespace: unique.Make(d.Namespace), cluster: unique.Make(d.Spec.Cluster), mesh: unique.Make(d.Spec.Mesh),
		serviceIn: unique.Make(s.Namespace), kind: unique.Make(s.Type),
		name: d.Name, service: within(d.Name, s.Name), version: d.ResourceVersion, created: d.CreationTimestamp, generation: d.Generation,
		identities: d.Spec.Identities, federation: d.Status.AppliedFederation,
	}
	if len(s.Labels) > 0 {
		p.labels = make([]label, 0, len(s.Labels))
	}
	for k, v := range s.Labels {
		p.labels = append(p.labels, label{unique.Make(k), within(d.Name, v)})
	}
	if len(s.Ports) > 0 {
		p.ports = make([]port, len(s.Ports))
	}
	for i, q := range s.Ports {
		p.ports[i] = port{unique.Make(q.Name), unique.Make(q.Protocol), unique.Make(q.AppProtocol), unique.Make(q.TargetPort), q.Port, q.NodePort}
	}
	for _, plane := range d.Spec.DataPlanes {
		p.dataPlanes = append(p.dataPlanes, unique.Make(string(plane)))
	}
	return p
}

// within is s as a part of whole, if it begins with it, so that it takes no memory of its own.
func within(whole, s string) string {
	if strings.HasPrefix(whole, s) {
		return whole[:len(s)]
	}
	return s
}

// Unpack implements compact.Packed.
func (p *packed) Unpack() client.Object {
	d := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{
		Namespace: p.namespace.Value(), Name: p.name, ResourceVersion: p.version, CreationTimestamp: p.created, Generation: p.generation,
	}}
	d.Spec = v1alpha1.DestinationSpec{Cluster: p.cluster.Value(), Mesh: p.mesh.Value(), Identities: p.identities}
	s := &d.Spec.KubeService
	s.Name, s.Namespace, s.Type = p.service, p.serviceIn.Value(), p.kind.Value()
	if len(p.labels) > 0 {
		s.Labels = make(map[string]string, len(p.labels))
	}
	for _, l := range p.labels {
		s.Labels[l.key.Value()] = l.value
	}
	if len(p.ports) > 0 {
		s.Ports = make([]v1alpha1.KubeServicePort, len(p.ports))
	}
	for i, q := range p.ports {
		s.Ports[i] = v1alpha1.KubeServicePort{
			Name: q.name.Value(), Port: q.number, Protocol: q.protocol.Value(), AppProtocol: q.app.Value(), TargetPort: q.target.Value(), NodePort: q.node,
		}
	}
	for _, plane := range p.dataPlanes {
		d.Spec.DataPlanes = append(d.Spec.DataPlanes, v1alpha1.DataPlane(plane.Value()))
	}
	d.Status.AppliedFederation = p.federation
	if p.notHeld {
		d.Annotations = map[string]string{annotationNotHeld: "true"}
	}
	return d
}

// GetObjectMeta implements compact.Packed.
func (p *packed) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: p.namespace.Value(), Name: p.name, ResourceVersion: p.version}
}
