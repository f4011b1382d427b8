package hublink

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
)

// KubeconfigKey is the key of a credential Secret that holds the kubeconfig.
const KubeconfigKey = "kubeconfig"

// Source is where the kubeconfig for the hub comes from.
type Source interface {
	// Kubeconfig returns the present kubeconfig.
	Kubeconfig(context.Context) ([]byte, error)
	// Changes returns a channel on which something is received whenever the kubeconfig may have changed.
	Changes(context.Context) (<-chan struct{}, error)
	// String says where it is, for messages.
	String() string
}

// SecretSource is a Secret of the agent's own cluster. Only its metadata is watched and cached.
type SecretSource struct {
	Manager ctrl.Manager
	Key     types.NamespacedName
}

// Kubeconfig implements Source.
func (s SecretSource) Kubeconfig(ctx context.Context) ([]byte, error) {
	var secret corev1.Secret
	if err := s.Manager.GetAPIReader().Get(ctx, s.Key, &secret); err != nil {
		return nil, err
	}
	kubeconfig := secret.Data[KubeconfigKey]
	if len(kubeconfig) == 0 {
		return nil, fmt.Errorf("%s has no key %s", s, KubeconfigKey)
	}
	return kubeconfig, nil
}

// Changes implements Source.
func (s SecretSource) Changes(ctx context.Context) (<-chan struct{}, error) {
	meta := &metav1.PartialObjectMetadata{}
	meta.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	informer, err := s.Manager.GetCache().GetInformer(ctx, meta)
	if err != nil {
		return nil, err
	}
	changes := make(chan struct{}, 1)
	notify := func(obj any) {
		if o, ok := obj.(metav1.Object); ok && o.GetName() == s.Key.Name && o.GetNamespace() == s.Key.Namespace {
			signal(changes)
		}
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    notify,
		UpdateFunc: func(_, obj any) { notify(obj) },
	})
	return changes, err
}

func (s SecretSource) String() string { return "Secret " + s.Key.String() }

// FileSource is a file, as of a mounted Secret. It is read again every ten seconds.
type FileSource string

// Kubeconfig implements Source.
func (f FileSource) Kubeconfig(context.Context) ([]byte, error) { return os.ReadFile(string(f)) }

// Changes implements Source.
func (f FileSource) Changes(ctx context.Context) (<-chan struct{}, error) {
	changes := make(chan struct{}, 1)
	last, _ := f.Kubeconfig(ctx)
	go func() {
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if now, err := f.Kubeconfig(ctx); err == nil && !bytes.Equal(now, last) {
					last = now
					signal(changes)
				}
			}
		}
	}()
	return changes, nil
}

func (f FileSource) String() string { return "file " + string(f) }

// signal leaves one notice in a channel of capacity 1.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
