package network

import (
	"errors"
	"sync"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

// ReasonForeignObject says that an object of somebody else has the name of one that is called for.
const ReasonForeignObject = "ForeignObject"

// blocked keeps what waits for an object of somebody else to go.
type blocked struct {
	mu      sync.Mutex
	waiting map[blockedKey]ctrl.Request
}

type blockedKey struct{ controller, namespace, name string }

// foreign turns the error that an object of somebody else is in the way into a finding, and has the controller look again when
// that object is touched.
func (b *blocked) foreign(err error, controller string, req ctrl.Request) (finding.Finding, bool) {
	f, ok := errors.AsType[*kube.ForeignObjectError](err)
	if !ok {
		return finding.Finding{}, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == nil {
		b.waiting = map[blockedKey]ctrl.Request{}
	}
	b.waiting[blockedKey{controller, f.Namespace, f.Name}] = req
	return finding.Finding{Reason: ReasonForeignObject, Message: f.Error()}, true
}

// by returns what of a controller waits for an object to go.
func (b *blocked) by(controller string, o client.Object) []ctrl.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := blockedKey{controller, o.GetNamespace(), o.GetName()}
	req, ok := b.waiting[key]
	if !ok {
		return nil
	}
	delete(b.waiting, key)
	return []ctrl.Request{req}
}
