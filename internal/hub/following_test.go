package hub_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/hub/hubtest"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// startLegacy starts a hub that follows older generations, whose kinds are installed, with the rights that its chart gives it.
func startLegacy(t *testing.T) *world {
	w := &world{T: t, whole: t, legacy: true, env: testenv.Start(t, filepath.Join(testenv.Root(), "charts", "isthmus-crds", "legacy"))}
	journal.Of(t)
	w.Client = w.env.Client
	namespaces := []any{}
	for _, ns := range secretNamespaces {
		w.env.Namespace(t, ns, nil)
		namespaces = append(namespaces, ns)
	}
	hubtest.InstallWith(t, w.env, map[string]any{"secretNamespaces": namespaces, "legacy": map[string]any{"enabled": true}})
	w.startHub()
	return w
}

// manifest of the conversion's tests, as users apply it.
func manifest(t testing.TB, name string) *unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testenv.Root(), "internal", "legacy", "testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

func parse(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	data, err := yaml.YAMLToJSON([]byte(text))
	if err := errors.Join(err, u.UnmarshalJSON(data)); err != nil {
		t.Fatal(err)
	}
	return u
}

// give applies an object as kubectl does, with strict validation; its namespace is made.
func (w *world) give(o *unstructured.Unstructured) {
	w.Helper()
	w.env.Namespace(w, o.GetNamespace(), nil)
	if err := client.WithFieldValidation(w.Client, metav1.FieldValidationStrict).Create(context.Background(), o); err != nil {
		w.Fatal(err)
	}
}

// old waits for an object of an older generation to be as the test wants it.
func (w *world) old(o *unstructured.Unstructured, what string, is func(status map[string]any) error) *unstructured.Unstructured {
	w.Helper()
	got := o.DeepCopy()
	testenv.Eventually(w, what, func() error {
		w.get(got, o.GetNamespace(), o.GetName())
		status, _, _ := unstructured.NestedMap(got.Object, "status")
		if err := is(status); err != nil {
			text, _ := yaml.Marshal(status)
			return fmt.Errorf("%w in\n%s", err, text)
		}
		return nil
	})
	return got
}

// holds asks for one value of a status.
func holds(value any, path ...string) func(map[string]any) error {
	return func(status map[string]any) error {
		got, _, _ := unstructured.NestedFieldNoCopy(status, path...)
		if !reflect.DeepEqual(got, value) {
			return fmt.Errorf("%s is %v, want %v", strings.Join(path, "."), got, value)
		}
		return nil
	}
}

// says asks for words in one value of a status.
func says(words string, path ...string) func(map[string]any) error {
	return func(status map[string]any) error {
		got, _, _ := unstructured.NestedFieldNoCopy(status, path...)
		if !strings.Contains(fmt.Sprint(got), words) {
			return fmt.Errorf("%s is %v, want %q in it", strings.Join(path, "."), got, words)
		}
		return nil
	}
}

func all(checks ...func(map[string]any) error) func(map[string]any) error {
	return func(status map[string]any) error {
		var errs []error
		for _, c := range checks {
			errs = append(errs, c(status))
		}
		return errors.Join(errs...)
	}
}

// edit changes an object of an older generation as its owner would.
func (w *world) edit(o *unstructured.Unstructured, change func(spec map[string]any)) {
	w.Helper()
	update(w, o.DeepCopy(), o.GetNamespace(), o.GetName(), func(u *unstructured.Unstructured) {
		change(u.Object["spec"].(map[string]any))
	})
}

// follower waits for a VirtualMesh, which may not be there yet, to be as the test wants it.
func (w *world) follower(name, what string, is func(*v1alpha1.VirtualMesh) error) *v1alpha1.VirtualMesh {
	w.Helper()
	vm := &v1alpha1.VirtualMesh{}
	testenv.Eventually(w, what, func() error {
		*vm = v1alpha1.VirtualMesh{}
		if err := w.Get(context.Background(), client.ObjectKey{Namespace: system, Name: name}, vm); err != nil {
			return err
		}
		return is(vm)
	})
	return vm
}

// asItIs takes a VirtualMesh as it is.
func asItIs(*v1alpha1.VirtualMesh) error { return nil }

// gone waits until an object is gone.
func (w *world) gone(o client.Object) {
	w.Helper()
	testenv.Eventually(w, o.GetName()+" goes", func() error {
		err := w.Get(context.Background(), client.ObjectKeyFromObject(o), o)
		return want(apierrors.IsNotFound(err), true)
	})
}

// applied has the agent of a cluster report what it has applied of a VirtualMesh; of generation 0 nothing.
func (w *world) applied(cluster, vm string, generation int64) {
	w.Helper()
	updateStatus(w, &v1alpha1.Mesh{}, "isthmus-"+cluster, meshName(cluster), func(m *v1alpha1.Mesh) {
		m.Status.AppliedVirtualMeshes = nil
		if generation > 0 {
			m.Status.AppliedVirtualMeshes = []v1alpha1.AppliedVirtualMesh{{Name: vm + "." + system, Generation: generation}}
		}
	})
}

// TestGuideOfTheFirstGeneration: the manifest of the guide, unchanged, on a hub whose meshes it names.
func TestGuideOfTheFirstGeneration(t *testing.T) {
	w := startLegacy(t)
	w.register("management-plane")
	w.register("new-remote-cluster")
	guide := manifest(t, "zephyr-guide")
	const name = "zephyr-service-mesh-hub-virtual-mesh"
	w.give(guide)

	w.old(guide, "the first report", all(
		holds("ACCEPTED", "configStatus", "state"),
		holds("UNKNOWN", "certificateStatus", "state"),
		holds(name, "isthmus", "virtualMesh"),
		says("SERVICE.NAMESPACE.svc.CLUSTER.global", "isthmus", "notes"),
	))
	vm := w.follower(name, "acceptance", func(vm *v1alpha1.VirtualMesh) error {
		return want(vm.Status.Accepted != nil && len(vm.Status.Accepted.Spec.Meshes) == 2, true)
	})
	root := vm.Spec.MTLSConfig.Shared.RootCertificateAuthority.Generated
	if *root.TTLDays != 356 || root.OrgName != "service-mesh-hub" || vm.Spec.GlobalAccessPolicy != v1alpha1.GlobalAccessPolicyDisabled || len(vm.Spec.Federation.Selectors) != 1 {
		t.Errorf("the VirtualMesh is %+v", vm.Spec)
	}
	testenv.Eventually(w, "a root of 4096 bits", func() error { return want(len(w.rootSecrets()), 1) }) // which takes a while to make
	for _, cluster := range []string{"management-plane", "new-remote-cluster"} {
		cr := w.carryOut(cluster, 1)
		w.applied(cluster, name, vm.Generation)
		if cr.Status.SignedCertificate == "" {
			t.Error("nothing was signed")
		}
	}
	w.old(guide, "all in force", all(
		holds("ACCEPTED", "configStatus", "state"), holds("ACCEPTED", "certificateStatus", "state"),
		holds("ACCEPTED", "federationStatus", "state"), holds("ACCEPTED", "accessControlEnforcementStatus", "state"),
		holds("True", "isthmus", "ready"), holds(int64(1), "isthmus", "observedGeneration"),
	))

	w.run("a restarted hub writes nothing", func(t *testing.T) {
		w.beat()
		before, was := w.versions(), w.old(guide, "the object", holds("True", "isthmus", "ready")).GetResourceVersion()
		w.stop()
		w.startHub()
		other := parse(t, "{apiVersion: networking.zephyr.solo.io/v1alpha1, kind: VirtualMesh, metadata: {name: z, namespace: service-mesh-hub}, spec: {}}")
		w.give(other) // when the hub has looked at this, it has looked at the other
		w.old(other, "another object", holds("INVALID", "configStatus", "state"))
		for name, version := range w.versions() {
			if v, ok := before[name]; ok && v != version {
				t.Errorf("%s was written", name)
			}
		}
		if now := w.old(guide, "the object", holds("True", "isthmus", "ready")).GetResourceVersion(); now != was {
			t.Error("the object was written")
		}
		w.remove(other)
	})
	w.run("edits are followed, whichever way a value is written", func(t *testing.T) {
		w.edit(guide, func(spec map[string]any) { spec["enforceAccessControl"] = "ENABLED" })
		w.follower(name, "the enum", func(vm *v1alpha1.VirtualMesh) error {
			return want(vm.Status.Accepted.Spec.GlobalAccessPolicy, v1alpha1.GlobalAccessPolicyEnabled)
		})
		w.edit(guide, func(spec map[string]any) { delete(spec, "displayName"); spec["enforceAccessControl"] = false })
		w.follower(name, "the bool", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(want(vm.Status.Accepted.Spec.GlobalAccessPolicy, v1alpha1.GlobalAccessPolicyDisabled), want(vm.Spec.DisplayName, ""))
		})
	})
	w.run("an invalid edit keeps what is in force", func(t *testing.T) {
		before := w.follower(name, "the VirtualMesh", asItIs)
		w.edit(guide, func(spec map[string]any) {
			spec["certificateAuthority"].(map[string]any)["builtin"].(map[string]any)["rsaKeySizeBytes"] = int64(1024)
		})
		w.old(guide, "refusal", all(
			holds("INVALID", "configStatus", "state"),
			says("spec.certificateAuthority.builtin.rsaKeySizeBytes: 1024 is not a key size: use 2048", "configStatus", "message"),
			holds("ACCEPTED", "certificateStatus", "state"),
		))
		if vm := w.follower(name, "the VirtualMesh", asItIs); vm.Generation != before.Generation {
			t.Error("the VirtualMesh was changed")
		}
		w.edit(guide, func(spec map[string]any) {
			spec["certificateAuthority"].(map[string]any)["builtin"].(map[string]any)["rsaKeySizeBytes"] = int64(4096)
		})
		w.old(guide, "recovery", holds("ACCEPTED", "configStatus", "state"))
	})
	w.run("what a user adds to the VirtualMesh stays", func(t *testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, name, func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.MTLSConfig.AdoptExistingCA = true
			vm.Spec.GlobalAccessPolicy = v1alpha1.GlobalAccessPolicyEnabled // this is not an addition
		})
		w.follower(name, "addition and correction", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(want(vm.Spec.MTLSConfig.AdoptExistingCA, true), want(vm.Spec.GlobalAccessPolicy, v1alpha1.GlobalAccessPolicyDisabled))
		})
	})
	w.run("a VirtualMesh that somebody deletes is made again", func(t *testing.T) {
		vm := w.follower(name, "the VirtualMesh", asItIs)
		if err := w.Delete(context.Background(), vm); err != nil {
			t.Fatal(err)
		}
		w.follower(name, "its deletion", func(vm *v1alpha1.VirtualMesh) error { return want(vm.DeletionTimestamp != nil, true) })
		w.applied("management-plane", name, 0)
		w.applied("new-remote-cluster", name, 0)
		w.follower(name, "another one", func(now *v1alpha1.VirtualMesh) error {
			return want(now.UID != vm.UID && now.Status.Accepted != nil && slices.Contains(now.Finalizers, v1alpha1.Finalizer), true)
		})
		w.applied("management-plane", name, 1)
	})
	w.run("deleted, it waits until all is taken back", func(t *testing.T) {
		if err := w.Delete(context.Background(), guide.DeepCopy()); err != nil {
			t.Fatal(err)
		}
		w.old(guide, "what it waits for", says("being taken back in "+accept.MeshKey(meshName("management-plane"), "isthmus-management-plane"), "isthmus", "message"))
		w.applied("management-plane", name, 0)
		w.gone(guide.DeepCopy())
		if err := w.Get(context.Background(), client.ObjectKey{Namespace: system, Name: name}, &v1alpha1.VirtualMesh{}); !apierrors.IsNotFound(err) {
			t.Errorf("the object went before its VirtualMesh: %v", err)
		}
		if n := len(w.rootSecrets()); n != 1 {
			t.Errorf("%d roots are left", n)
		}
	})
}

// TestManifestsOfEachGeneration: each manifest of the conversion's tests is taken as it is, and reported on in its own shape.
func TestManifestsOfEachGeneration(t *testing.T) {
	w := startLegacy(t)
	files, err := filepath.Glob(filepath.Join(testenv.Root(), "internal", "legacy", "testdata", "*-*.yaml"))
	if err != nil || len(files) < 8 {
		t.Fatalf("%d manifests: %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		w.run(name, func(t *testing.T) {
			o := manifest(t, name)
			spec := o.Object["spec"]
			w.give(o)
			generation, _, _ := strings.Cut(name, "-")
			vm := w.follower(generation+"-"+o.GetNamespace()+"-"+o.GetName(), "judgement", func(vm *v1alpha1.VirtualMesh) error {
				return want(vm.Status.ObservedGeneration, vm.Generation)
			})
			if vm.Annotations["isthmus.dev/converted-from"] != o.GetAPIVersion()+"/"+o.GetNamespace()+"/"+o.GetName() || len(vm.Labels) != 1 {
				t.Errorf("labels %v, annotations %v", vm.Labels, vm.Annotations)
			}
			if generation == "zephyr" {
				reason := "no Mesh has the name" // the meshes are not there
				if name == "zephyr-limited" {
					reason = "add the namespace to the hub's secretNamespaces" // the root of one's own is asked for first
				}
				o = w.old(o, "status", all(holds("INVALID", "configStatus", "state"), says(reason, "configStatus", "message")))
			} else {
				ref := spec.(map[string]any)["meshes"].([]any)[0].(map[string]any)
				o = w.old(o, "status", all(holds("INVALID", "state"), holds(int64(1), "observedGeneration"),
					holds("INVALID", "meshes", ref["name"].(string)+"."+ref["namespace"].(string)+".", "state")))
			}
			if !reflect.DeepEqual(o.Object["spec"], spec) {
				t.Errorf("the API server keeps\n%v\nof\n%v", o.Object["spec"], spec)
			}
			if !slices.Contains(o.GetFinalizers(), v1alpha1.Finalizer) {
				t.Error("there is no finalizer")
			}
		})
	}
}

// TestOfThirdGeneration: what only its status has.
func TestStatusOfTheThirdGeneration(t *testing.T) {
	w := startLegacy(t)
	w.register("east")
	o := parse(t, `
apiVersion: networking.mesh.gloo.solo.io/v1
kind: VirtualMesh
metadata: {name: vm, namespace: gloo-mesh}
spec:
  mtlsConfig:
    shared:
      rootCertificateAuthority: {generated: {ttlDays: 30, rsaKeySizeBytes: 2048, secretRotationGracePeriodRatio: 0.2}}
    retries: 3
  federation: {selectors: [{}]}
  meshes: [{name: istiod-istio-system-east, namespace: gloo-mesh}]
`)
	w.give(o)
	w.carryOut("east", 1)
	w.applied("east", "gloo-gloo-mesh-vm", 1)
	o = w.old(o, "all in force", all(
		holds("ACCEPTED", "state"),
		holds(map[string]any{"state": "ACCEPTED"}, "meshes", "istiod-istio-system-east.gloo-mesh."),
		holds(0.2, "deployedSharedTrust", "rootCertificateAuthority", "generated", "secretRotationGracePeriodRatio"),
		holds("gloo-mesh", "deployedSharedTrust", "rootCertificateAuthority", "generated", "orgName"),
		says("spec.mtlsConfig.retries: is no field that is known", "errors"),
		says("spec.mtlsConfig.retries", "isthmus", "problems"),
	))
	if retries, _, _ := unstructured.NestedInt64(o.Object, "spec", "mtlsConfig", "retries"); retries != 3 {
		t.Errorf("spec.mtlsConfig.retries is %d", retries)
	}
	w.event(o, "NotConverted", "spec.mtlsConfig.retries")
	vm := w.follower("gloo-gloo-mesh-vm", "the field kept aside", func(vm *v1alpha1.VirtualMesh) error {
		return want(vm.Annotations["isthmus.dev/not-converted"], `{"spec.mtlsConfig.retries":3}`)
	})

	w.run("two objects for one mesh", func(t *testing.T) {
		other := parse(t, `
apiVersion: networking.smh.solo.io/v1alpha2
kind: VirtualMesh
metadata: {name: vm, namespace: service-mesh-hub}
spec:
  mtlsConfig: {shared: {}}
  meshes: [{name: istiod-istio-system-east, namespace: service-mesh-hub}]
`)
		w.give(other)
		w.old(other, "refusal", all(holds("INVALID", "state"),
			says("the mesh belongs to VirtualMesh "+vm.Name+"."+system, "meshes", "istiod-istio-system-east.service-mesh-hub.", "errors")))
		w.remove(other)
	})
	w.run("the same, of the first generation", func(t *testing.T) {
		other := parse(t, `
apiVersion: networking.zephyr.solo.io/v1alpha1
kind: VirtualMesh
metadata: {name: vm, namespace: service-mesh-hub}
spec:
  meshes: [{name: istio-istio-system-east, namespace: service-mesh-hub}]
`)
		w.give(other)
		w.old(other, "conflict", all(holds("CONFLICT", "configStatus", "state"), says("the mesh belongs to VirtualMesh "+vm.Name, "configStatus", "message")))
		w.remove(other)
	})
	w.run("handed over, the VirtualMesh outlives the object", func(t *testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, vm.Name, func(vm *v1alpha1.VirtualMesh) { delete(vm.Labels, v1alpha1.LabelManagedBy) })
		w.old(o, "that it is somebody else's", all(holds("INVALID", "state"), says("was made by somebody else", "errors")))
		w.remove(o.DeepCopy())
		if now := w.follower(vm.Name, "the VirtualMesh", asItIs); now.UID != vm.UID || now.DeletionTimestamp != nil {
			t.Error("the VirtualMesh was deleted")
		}
	})
}

// TestTakeoverOfTheRoot: meshes under the root of an older installation come under Isthmus without a change of root, as their
// certificates are under the same one, if that is provided; so nothing has to be trusted that was not before.
func TestTakeoverOfTheRoot(t *testing.T) {
	w := startLegacy(t)
	root := pkitest.NewRoot(t, "service-mesh-hub", time.Now())
	id := root.Root().ID().String()
	for _, cluster := range []string{"management-plane", "new-remote-cluster"} {
		w.register(cluster)
		w.uses(cluster, v1alpha1.MeshCertificateAuthority{
			Source: v1alpha1.CASourcePlugged, Signer: id, Roots: []string{id}, InUse: []string{id},
			RootCertificates: []v1alpha1.RootCertificate{{Fingerprint: id, Certificate: string(root.Root().PEM())}},
		})
	}
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "virtual-mesh-ca-certs", Namespace: "ca"}, Data: root.RootSecret(t)})
	guide := manifest(t, "zephyr-guide")
	guide.Object["spec"].(map[string]any)["certificateAuthority"] = map[string]any{
		"provided": map[string]any{"certificate": map[string]any{"name": "virtual-mesh-ca-certs", "namespace": "ca"}},
	}
	w.give(guide)
	const name = "zephyr-service-mesh-hub-virtual-mesh"
	for _, cluster := range []string{"management-plane", "new-remote-cluster"} {
		if o := w.first(cluster); o.Signer != id || len(o.Roots) != 1 || o.Roots[0].Fingerprint != id || o.Rotation != nil || o.AdoptExistingCA {
			t.Errorf("%s: the first order is %+v", cluster, o)
		}
	}
	w.follower(name, "the VirtualMesh", asItIs)
	update(w, &v1alpha1.VirtualMesh{}, system, name, func(vm *v1alpha1.VirtualMesh) { vm.Spec.MTLSConfig.AdoptExistingCA = true })
	for _, cluster := range []string{"management-plane", "new-remote-cluster"} {
		testenv.Eventually(t, "leave to replace cacerts", func() error { return want(w.order(cluster, 1).Spec.AdoptExistingCA, true) })
		w.carryOut(cluster, 1)
	}
	w.old(guide, "one trust", holds("ACCEPTED", "certificateStatus", "state"))
	if vm := w.follower(name, "the VirtualMesh", asItIs); len(vm.Status.Roots) != 1 || vm.Status.Roots[0].Fingerprint != id {
		t.Errorf("roots are %+v", vm.Status.Roots)
	}
}

// event waits for an event about an object.
func (w *world) event(o client.Object, reason, words string) {
	w.Helper()
	testenv.Eventually(w, "event "+reason, func() error {
		var list eventsv1.EventList
		if err := w.List(context.Background(), &list); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Regarding.Name == o.GetName() && e.Regarding.Kind == o.GetObjectKind().GroupVersionKind().Kind && e.Reason == reason && strings.Contains(e.Note, words) {
				return nil
			}
		}
		return fmt.Errorf("there is none among %d", len(list.Items))
	})
}

const least = `
apiVersion: networking.smh.solo.io/v1alpha2
kind: VirtualMesh
metadata: {name: %s, namespace: %s}
spec:
  meshes: [{name: istiod-istio-system-east}]
`

// TestNamesThatAreTaken: nothing of somebody else is written over.
func TestNamesThatAreTaken(t *testing.T) {
	w := startLegacy(t)
	own := virtualMesh("smh-a-b-c", "west")
	w.create(own)
	taken := parse(t, fmt.Sprintf(least, "b-c", "a"))
	w.give(taken)
	w.old(taken, "refusal", all(holds("INVALID", "state"), says("was made by somebody else", "errors"), holds(nil, "isthmus", "virtualMesh")))
	if vm := w.follower(own.Name, "it", asItIs); vm.Generation != 1 || len(vm.Labels) > 0 {
		t.Error("a VirtualMesh of somebody else was written")
	}
	if w.get(taken, "a", "b-c"); len(taken.GetFinalizers()) > 0 {
		t.Error("there is a finalizer for nothing")
	}
	w.remove(own)
	w.follower(own.Name, "its successor", func(vm *v1alpha1.VirtualMesh) error {
		return want(vm.Annotations["isthmus.dev/converted-from"], "networking.smh.solo.io/v1alpha2/a/b-c")
	})

	second := parse(t, fmt.Sprintf(least, "c", "a-b"))
	w.give(second)
	w.old(second, "refusal", all(holds("INVALID", "state"), says("follows networking.smh.solo.io/v1alpha2/a/b-c", "errors")))
	w.remove(taken)
	w.follower(own.Name, "the turn of the second", func(vm *v1alpha1.VirtualMesh) error {
		return want(vm.Annotations["isthmus.dev/converted-from"], "networking.smh.solo.io/v1alpha2/a-b/c")
	})

	long := parse(t, fmt.Sprintf(least, strings.Repeat("x", 253), strings.Repeat("n", 63)))
	w.give(long)
	o := w.old(long, "a long name", says("smh-nnn", "isthmus", "virtualMesh"))
	name, _, _ := unstructured.NestedString(o.Object, "status", "isthmus", "virtualMesh")
	w.follower(name, "its VirtualMesh", asItIs)
	w.remove(long)
}

// TestForeignDefinitions: objects of kinds that are somebody else's are not touched until the hub is told to.
func TestForeignDefinitions(t *testing.T) {
	w := startLegacy(t)
	const name = "virtualmeshes.networking.smh.solo.io"
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	followed := parse(t, fmt.Sprintf(least, "before", "old"))
	w.give(followed)
	w.old(followed, "it is followed", holds("INVALID", "state"))

	update(w, crd, "", name, func(crd *unstructured.Unstructured) { crd.SetLabels(map[string]string{"app": "theirs"}) })
	w.event(crd, "ForeignDefinition", "kubectl annotate crd "+name+" isthmus.dev/follow=true")
	foreign := parse(t, fmt.Sprintf(least, "foreign", "old"))
	w.give(foreign)
	other := parse(t, "{apiVersion: networking.zephyr.solo.io/v1alpha1, kind: VirtualMesh, metadata: {name: z, namespace: old}, spec: {}}")
	w.give(other) // when the hub has looked at this, it would have looked at the other
	w.old(other, "another kind", holds("INVALID", "configStatus", "state"))
	if w.get(foreign, "old", "foreign"); len(foreign.GetFinalizers()) > 0 || foreign.Object["status"] != nil {
		t.Errorf("it was touched: %v", foreign.Object)
	}
	w.follower("smh-old-before", "what was followed before", func(vm *v1alpha1.VirtualMesh) error { return want(vm.DeletionTimestamp == nil, true) })

	update(w, crd, "", name, func(crd *unstructured.Unstructured) {
		crd.SetAnnotations(map[string]string{"isthmus.dev/follow": "true"})
	})
	w.old(foreign, "it is followed", holds("INVALID", "state"))

	w.run("a deleted definition deletes nothing of ours", func(t *testing.T) {
		vm := w.follower("smh-old-foreign", "the VirtualMesh", asItIs)
		if err := w.Delete(context.Background(), crd); err != nil {
			t.Fatal(err)
		}
		w.gone(crd)
		w.event(foreign, "LeftInPlace", name)
		w.follower(vm.Name, "that it stays", func(now *v1alpha1.VirtualMesh) error {
			return errors.Join(want(now.UID, vm.UID), want(now.DeletionTimestamp == nil, true))
		})
	})
	w.run("made anew, it is followed again", func(t *testing.T) {
		text, err := os.ReadFile(filepath.Join(testenv.Root(), "charts", "isthmus-crds", "legacy", "networking.smh.solo.io_virtualmeshes.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		w.create(parse(t, string(text)))
		again := parse(t, fmt.Sprintf(least, "foreign", "old"))
		testenv.Eventually(t, "the kind", func() error { return w.Create(context.Background(), again) })
		w.old(again, "it is followed", holds("smh-old-foreign", "isthmus", "virtualMesh"))
	})
}

// TestForeignSchema: a definition of somebody else may have no place for what is ours in the status.
func TestForeignSchema(t *testing.T) {
	w := startLegacy(t)
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	update(w, crd, "", "virtualmeshes.networking.smh.solo.io", func(crd *unstructured.Unstructured) {
		crd.SetLabels(nil)
		crd.SetAnnotations(map[string]string{"isthmus.dev/follow": "true"})
		version := crd.Object["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)
		root := version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
		status := root["properties"].(map[string]any)["status"].(map[string]any)
		delete(root, "x-kubernetes-preserve-unknown-fields")
		delete(status, "x-kubernetes-preserve-unknown-fields")
		delete(status["properties"].(map[string]any), "isthmus")
	})
	old := parse(t, fmt.Sprintf(least, "vm", "old"))
	testenv.Eventually(t, "the changed kind", func() error {
		probe := old.DeepCopy()
		probe.Object["other"] = "x"
		w.env.Namespace(t, "old", nil)
		err := client.WithFieldValidation(w.Client, metav1.FieldValidationStrict).Create(context.Background(), probe, client.DryRunAll)
		return want(apierrors.IsBadRequest(err), true)
	})
	w.give(old)
	told := holds("INVALID", "meshes", "istiod-istio-system-east..", "state")
	w.old(old, "what it has a place for", all(holds("INVALID", "state"), told, holds(nil, "isthmus")))
	w.quiet()
	before := w.old(old, "the object", told).GetResourceVersion()
	w.register("east") // the VirtualMesh changes, and the object is looked at again
	w.old(old, "what became of it", all(holds("PENDING", "meshes", "istiod-istio-system-east..", "state"), holds(nil, "isthmus")))
	w.quiet()
	settled := w.old(old, "the object", holds(nil, "isthmus")).GetResourceVersion()
	w.quiet()
	if now := w.old(old, "the object", holds(nil, "isthmus")).GetResourceVersion(); settled == before || now != settled {
		t.Errorf("resource versions %s, %s, %s", before, settled, now)
	}
}
