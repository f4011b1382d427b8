package hublink

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// What is left of a Destination of another cluster is not changed by packing it.
func TestPacked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := destinations().Draw(t, "destination")
		if Pack(d) != nil {
			t.Fatal("a whole one is packed")
		}
		obj, err := StripForeign(d)
		if err != nil {
			t.Fatal(err)
		}
		p := Pack(obj.(*v1alpha1.Destination))
		want, err := json.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := json.Marshal(p.Unpack()); err != nil || string(got) != string(want) {
			t.Fatalf("%s, %v\nwant %s", got, err, want)
		}
		if m := p.GetObjectMeta(); m.GetName() != d.Name || m.GetNamespace() != d.Namespace || m.GetResourceVersion() != d.ResourceVersion {
			t.Fatalf("%+v of %+v", m, d)
		}
	})
}

// Nor is any field forgotten that is added some day.
func TestPacksEveryField(t *testing.T) {
	d := &v1alpha1.Destination{}
	fill(reflect.ValueOf(d).Elem())
	obj, err := StripForeign(d)
	if err != nil {
		t.Fatal(err)
	}
	// The metadata that is packed is not all there is.
	m := &obj.(*v1alpha1.Destination).ObjectMeta
	*m = metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, ResourceVersion: m.ResourceVersion, Generation: m.Generation, CreationTimestamp: m.CreationTimestamp,
	}
	want, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := json.Marshal(Pack(d).Unpack()); err != nil || string(got) != string(want) {
		t.Errorf("%s, %v\nwant %s", got, err, want)
	}
}

// fill gives every field a value that is not empty.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[metav1.Time]() {
			v.Set(reflect.ValueOf(metav1.Unix(1e9, 0)))
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	}
}

// destinations are any of a few words.
func destinations() *rapid.Generator[*v1alpha1.Destination] {
	words := rapid.SampledFrom([]string{"", "a", "b", "c"})
	pairs := rapid.MapOfN(words, words, 0, 3)
	port := rapid.Custom(func(t *rapid.T) v1alpha1.KubeServicePort {
		return v1alpha1.KubeServicePort{
			Name: words.Draw(t, "name"), Port: rapid.Int32().Draw(t, "port"), Protocol: words.Draw(t, "protocol"),
			AppProtocol: words.Draw(t, "appProtocol"), TargetPort: words.Draw(t, "targetPort"), NodePort: rapid.Int32().Draw(t, "nodePort"),
		}
	})
	return rapid.Custom(func(t *rapid.T) *v1alpha1.Destination {
		d := &v1alpha1.Destination{TypeMeta: metav1.TypeMeta{Kind: "Destination"}}
		d.ObjectMeta = metav1.ObjectMeta{
			Namespace: rapid.SampledFrom([]string{"isthmus-east", "isthmus-west"}).Draw(t, "namespace"), Name: words.Draw(t, "its name"),
			Generation: rapid.Int64().Draw(t, "generation"), ResourceVersion: words.Draw(t, "version"), UID: "u",
			CreationTimestamp: metav1.NewTime(time.Unix(rapid.Int64Range(1, 1e9).Draw(t, "created"), 0)),
			Labels:            pairs.Draw(t, "its labels"), Annotations: pairs.Draw(t, "annotations"), ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "a"}},
		}
		d.Spec = v1alpha1.DestinationSpec{
			Cluster: words.Draw(t, "cluster"), Mesh: words.Draw(t, "mesh"), Identities: rapid.SliceOfN(words, 0, 3).Draw(t, "identities"),
			KubeService: v1alpha1.KubeService{
				Name: words.Draw(t, "service"), Namespace: words.Draw(t, "its namespace"), Type: words.Draw(t, "type"),
				Labels: pairs.Draw(t, "labels"), Selector: pairs.Draw(t, "selector"), Ports: rapid.SliceOfN(port, 0, 3).Draw(t, "ports"),
				Subsets: map[string]v1alpha1.SubsetValues{"version": {Values: []string{"v1"}}},
			},
			DataPlanes: rapid.SliceOfN(rapid.Just(v1alpha1.DataPlaneSidecar), 0, 2).Draw(t, "data planes"),
		}
		if rapid.Bool().Draw(t, "federated") {
			d.Status.AppliedFederation = &v1alpha1.AppliedFederation{
				FederatedHostname: words.Draw(t, "hostname"), Subsets: rapid.SliceOfN(words, 0, 2).Draw(t, "subsets"),
			}
		}
		return d
	})
}
