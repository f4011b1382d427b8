// Package loadbalancer is a cloud's load-balancer controller for a cluster of one node: it writes that node's address
// into the status of every Service of type LoadBalancer, in whatever namespace, and kube-proxy does the rest.
package loadbalancer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/isthmus-mesh/isthmus/lab/internal/kubeapi"
)

// retryDelay is the pause after a failure, such as an API server that is away.
const retryDelay = 500 * time.Millisecond

type service struct {
	Metadata struct {
		Name, Namespace, ResourceVersion string
		DeletionTimestamp                *time.Time
	}
	Spec   struct{ Type string }
	Status struct {
		LoadBalancer struct{ Ingress []ingress }
	}
}

type ingress struct {
	IP string `json:"ip"`
}

// Run serves one cluster until the context ends.
func Run(ctx context.Context, api *kubeapi.Client, address string) {
	for ctx.Err() == nil {
		if err := follow(ctx, api, address); err != nil {
			slog.Warn("starting over", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(retryDelay):
			}
		}
	}
}

// follow lists all Services, then watches them until the server ends the watch.
func follow(ctx context.Context, api *kubeapi.Client, address string) error {
	var list struct {
		Metadata struct{ ResourceVersion string }
		Items    []service
	}
	if err := api.Get(ctx, "/api/v1/services", &list); err != nil {
		return err
	}
	for _, s := range list.Items {
		if err := assign(ctx, api, s, address); err != nil {
			return err
		}
	}
	query := url.Values{"watch": {"1"}, "resourceVersion": {list.Metadata.ResourceVersion}}
	return api.Watch(ctx, "/api/v1/services?"+query.Encode(), func(e kubeapi.Event) error {
		switch e.Type {
		case "ADDED", "MODIFIED":
			var s service
			if err := json.Unmarshal(e.Object, &s); err != nil {
				return err
			}
			return assign(ctx, api, s, address)
		case "ERROR": // the version has been compacted away, most likely
			return fmt.Errorf("watch of Services: %s", e.Object)
		}
		return nil
	})
}

func assign(ctx context.Context, api *kubeapi.Client, s service, address string) error {
	if !needs(s, address) {
		return nil
	}
	path := fmt.Sprintf("/api/v1/namespaces/%s/services/%s/status", s.Metadata.Namespace, s.Metadata.Name)
	patch := map[string]any{"status": map[string]any{"loadBalancer": map[string]any{"ingress": []ingress{{address}}}}}
	err := api.MergePatch(ctx, path, patch)
	var status *kubeapi.Status
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		return nil // deleted in the meantime
	}
	if err == nil {
		slog.Info("address assigned", "namespace", s.Metadata.Namespace, "service", s.Metadata.Name, "address", address)
	}
	return err
}

// needs says whether a Service waits for the address.
func needs(s service, address string) bool {
	in := s.Status.LoadBalancer.Ingress
	return s.Spec.Type == "LoadBalancer" && s.Metadata.DeletionTimestamp == nil && !(len(in) == 1 && in[0].IP == address)
}
