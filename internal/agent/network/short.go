package network

import (
	"context"
	"fmt"
	"slices"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// short gives the short hostname of an import its address, or leaves it out where the name is somebody else's: what is there of
// it then stays as it is.
func (i *importing) short(ctx context.Context, out *federation.Imported) error {
	entry := out.Short.ServiceEntry
	host := entry.Spec.Hosts[0]
	i.imports.also(i.key.String(), host) // so that this is looked at when a ServiceEntry of the host comes or goes
	theirs, err := i.entriesOf(ctx, host)
	if err != nil {
		return err
	}
	theirs = slices.DeleteFunc(theirs, func(e *networkingv1.ServiceEntry) bool {
		return client.ObjectKeyFromObject(e) == client.ObjectKeyFromObject(entry) // it is in the way of ours, which is said when that is applied
	})
	slices.SortFunc(theirs, byAge)
	for _, e := range theirs {
		out.Notes = append(out.Notes, finding.Finding{Field: "spec.federation.shortHostnames", Reason: federation.ReasonShortHostnameLeftOut, Message: fmt.Sprintf(
			"ServiceEntry %s/%s has the host %s: which of two Istio takes is not certain; delete it, or call the service %s", e.Namespace, e.Name, host, out.ServiceEntry.Spec.Hosts[0])})
	}
	there := slices.ContainsFunc(i.have, func(o client.Object) bool { return o.GetName() == entry.Name })
	if len(theirs) > 0 && !there {
		out.Short = nil
		return nil
	}
	address, err := i.addresses.of(host)
	if err != nil {
		out.Notes = append(out.Notes, finding.Finding{Reason: ReasonNoAddress, Message: err.Error()})
		out.Short = nil
		return nil //nolint:nilerr // it is reported, and nothing changes by trying again
	}
	entry.Spec.Addresses = []string{address}
	return nil
}

// entriesOf are the ServiceEntries of others that have a host.
func (i *importing) entriesOf(ctx context.Context, host string) ([]*networkingv1.ServiceEntry, error) {
	var list networkingv1.ServiceEntryList
	err := i.istio.GetCache().List(ctx, &list, client.MatchingFields{byHost: host}, client.UnsafeDisableDeepCopy)
	return list.Items, err
}
