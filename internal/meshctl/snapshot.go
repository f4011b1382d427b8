package meshctl

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/meshctl/diagnosis"
	"github.com/isthmus-mesh/isthmus/internal/version"
)

// logLines are taken of each log.
const logLines = 5000

func newDebug(c *cli) *cobra.Command {
	var file string
	snapshot := &cobra.Command{
		Use:   "snapshot",
		Short: "Collect everything of Isthmus that helps to find a fault, and no secret",
		Long: `Writes a .tar.gz with all objects of the kinds of Isthmus, their events, versions, what check finds, and the state and logs of
the hub, and of the agent too if --member-context is given. Of Secrets it takes names and labels, never the content.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			hub, err := c.hub()
			if err != nil {
				return err
			}
			a := &archive{when: time.Now()}
			hub.snapshot(ctx, a, "hub", c.namespace)
			a.add("versions.yaml", versionsOf(hub))
			a.add("check.yaml", diagnosis.Examine(hub.state(ctx, c.namespace)))
			for _, list := range []client.ObjectList{
				&v1alpha1.KubernetesClusterList{}, &v1alpha1.VirtualMeshList{}, &v1alpha1.AccessPolicyList{}, &v1alpha1.SettingsList{},
				&v1alpha1.VirtualDestinationList{},
				&v1alpha1.CertificateVerificationList{}, &v1alpha1.MeshList{}, &v1alpha1.WorkloadList{}, &v1alpha1.DestinationList{},
				&v1alpha1.IssuedCertificateList{}, &v1alpha1.CertificateRequestList{},
			} {
				hub.objects(ctx, a, "hub", list)
			}
			if c.memberGiven() {
				member, err := c.member()
				if err != nil {
					return err
				}
				member.snapshot(ctx, a, "member", v1alpha1.AgentNamespace)
			}
			if file == "" {
				file = "isthmus-snapshot-" + a.when.UTC().Format("20060102-150405") + ".tar.gz"
			}
			if err := a.write(file); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.Out, file)
			return err
		},
	}
	c.memberFlags(snapshot)
	snapshot.Flags().StringVar(&file, "file", "", "file to write; defaults to isthmus-snapshot-TIME.tar.gz")
	return group("debug", "Find faults", snapshot)
}

// archive is what is collected, in memory: it is written whole or not at all.
type archive struct {
	when  time.Time
	names []string
	files map[string][]byte
}

// add adds a file; v is marshalled to YAML unless it is bytes. What failed is a file too.
func (a *archive) add(name string, v any) {
	data, ok := v.([]byte)
	if err, failed := v.(error); failed {
		name, data, ok = name+".error", []byte(err.Error()+"\n"), true
	}
	if !ok {
		var err error
		if data, err = yaml.Marshal(v); err != nil {
			name, data = name+".error", []byte(err.Error()+"\n")
		}
	}
	if a.files == nil {
		a.files = map[string][]byte{}
	}
	a.names = append(a.names, name)
	a.files[name] = data
}

func (a *archive) write(file string) error {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	for _, name := range a.names {
		header := &tar.Header{Name: path.Join("isthmus-snapshot", name), Mode: 0o600, Size: int64(len(a.files[name])), ModTime: a.when}
		if err := t.WriteHeader(header); err != nil {
			return err
		}
		if _, err := t.Write(a.files[name]); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o600)
}

func versionsOf(hub *cluster) any {
	v := map[string]string{"meshctl": version.Version}
	if info, err := hub.clientset.Discovery().ServerVersion(); err == nil {
		v["kubernetes"] = info.GitVersion
	}
	return v
}

// objects adds all objects of a kind of ours.
func (c *cluster) objects(ctx context.Context, a *archive, dir string, list client.ObjectList) {
	gvk, err := c.GroupVersionKindFor(list)
	if err != nil {
		a.add(path.Join(dir, fmt.Sprintf("%T", list)), err)
		return
	}
	name := path.Join(dir, gvk.Kind+".yaml")
	if err := c.List(ctx, list); err != nil {
		a.add(name, err)
		return
	}
	_ = meta.EachListItem(list, func(o runtime.Object) error {
		o.(client.Object).SetManagedFields(nil)
		return nil
	})
	list.GetObjectKind().SetGroupVersionKind(gvk)
	a.add(name, list)
}

// snapshot adds what runs in a namespace of ours.
func (c *cluster) snapshot(ctx context.Context, a *archive, dir, namespace string) {
	a.add(path.Join(dir, "deployments.yaml"), c.deployments(ctx, namespace))
	a.add(path.Join(dir, "secrets.yaml"), c.secrets(ctx, namespace))
	events := &corev1.EventList{}
	if err := c.List(ctx, events, client.InNamespace(namespace)); err != nil {
		a.add(path.Join(dir, "events.yaml"), err)
	} else {
		for i := range events.Items {
			events.Items[i].ManagedFields = nil
		}
		a.add(path.Join(dir, "events.yaml"), events)
	}
	pods := &corev1.PodList{}
	if err := c.List(ctx, pods, client.InNamespace(namespace)); err != nil {
		a.add(path.Join(dir, "pods.yaml"), err)
		return
	}
	statuses := map[string]corev1.PodStatus{}
	for _, pod := range pods.Items {
		statuses[pod.Name] = pod.Status
		if pod.Labels["app.kubernetes.io/name"] != hubDeployment && pod.Labels["app.kubernetes.io/name"] != v1alpha1.AgentName {
			continue
		}
		a.add(path.Join(dir, "logs", pod.Name+".log"), c.log(ctx, &pod))
	}
	a.add(path.Join(dir, "pods.yaml"), statuses)
}

// deployments returns what matters of the Deployments of a namespace: environment and arguments may hold what is secret,
// such as a proxy's password.
func (c *cluster) deployments(ctx context.Context, namespace string) any {
	list := &appsv1.DeploymentList{}
	if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil {
		return err
	}
	type deployment struct {
		Images []string                `json:"images"`
		Status appsv1.DeploymentStatus `json:"status"`
	}
	out := map[string]deployment{}
	for _, d := range list.Items {
		var images []string
		for _, container := range d.Spec.Template.Spec.Containers {
			images = append(images, container.Image)
		}
		out[d.Name] = deployment{images, d.Status}
	}
	return out
}

// secrets returns names and labels of the Secrets of a namespace. Annotations are left out: `kubectl apply` leaves the
// content in one.
func (c *cluster) secrets(ctx context.Context, namespace string) any {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil {
		return err
	}
	type secret struct {
		Created metav1.Time       `json:"created"`
		Labels  map[string]string `json:"labels,omitempty"`
	}
	out := map[string]secret{}
	for _, s := range list.Items {
		out[s.Name] = secret{s.CreationTimestamp, s.Labels}
	}
	return out
}

func (c *cluster) log(ctx context.Context, pod *corev1.Pod) any {
	lines := int64(logLines)
	stream, err := c.clientset.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{TailLines: &lines}).Stream(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	data, err := io.ReadAll(stream)
	if err != nil {
		return err
	}
	return data
}
