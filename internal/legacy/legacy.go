package legacy

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/naming"
)

// AnnotationNotConverted holds, on a VirtualMesh that was converted, the fields for which its generation had no name: a JSON
// object from the path of a field to its value.
const AnnotationNotConverted = "isthmus.dev/not-converted"

// Reasons of findings, beside [v1alpha1.ReasonInvalid]: the object was not converted.
const (
	// ReasonUnknownField says that a field was kept aside, without effect.
	ReasonUnknownField = "UnknownField"
	// ReasonNotConverted says that a value or an object has no equal here.
	ReasonNotConverted = "NotConverted"
	// ReasonChanged says that a value is another one here, and means the same.
	ReasonChanged = "Changed"
	// ReasonDefaulted says that a default was written down.
	ReasonDefaulted = "Defaulted"
	// ReasonNotCarriedOver says that a field has no meaning outside of the object that it is taken from.
	ReasonNotCarriedOver = "NotCarriedOver"
)

// Problem reports whether a finding is about something that could not be converted, so that somebody has to act.
func Problem(f finding.Finding) bool {
	return slices.Contains([]string{v1alpha1.ReasonInvalid, ReasonUnknownField, ReasonNotConverted}, f.Reason)
}

// Generation is one of the older generations.
type Generation struct {
	// Name begins the names of what is converted from it.
	Name string
	// Group and Version of its API.
	Group, Version string

	spec   func() spec
	status func(*account) any
}

// spec is the spec of a VirtualMesh of a generation.
type spec interface {
	convert(c *conversion) v1alpha1.VirtualMeshSpec
	// members are the meshes that it lists.
	members() []objectRef
}

var generations = []*Generation{
	{"zephyr", "networking.zephyr.solo.io", "v1alpha1", func() spec { return &zephyrSpec{} }, zephyrStatusOf},
	{"smh", "networking.smh.solo.io", "v1alpha2", func() spec { return &smhSpec{} }, smhStatusOf},
	{"gloo", "networking.mesh.gloo.solo.io", "v1", func() spec { return &glooSpec{} }, glooStatusOf},
}

// Generations returns the older generations, the oldest first.
func Generations() []*Generation { return slices.Clone(generations) }

// APIVersion is that of its objects.
func (g *Generation) APIVersion() string { return g.Group + "/" + g.Version }

// Definition is the name of the CustomResourceDefinition of its VirtualMesh.
func (g *Generation) Definition() string { return "virtualmeshes." + g.Group }

// NameOf is the name here of an object that has the given namespace and name there.
func (g *Generation) NameOf(namespace, name string) string {
	return naming.Short(g.Name+"-"+namespace+"-"+name, longestName)
}

// longestName leaves room for what is named after a VirtualMesh, such as the Secrets of its roots: a dot, the longest name of a
// namespace, and a number.
const longestName = validation.DNS1123SubdomainMaxLength - 80

// of finds the generation of an API version and kind; nil if there is none.
func of(apiVersion, kind string) *Generation {
	for _, g := range generations {
		if g.APIVersion() == apiVersion && kind == "VirtualMesh" {
			return g
		}
	}
	return nil
}

func generationOf(object map[string]any) *Generation {
	apiVersion, _ := object["apiVersion"].(string)
	kind, _ := object["kind"].(string)
	return of(apiVersion, kind)
}

// Known reports whether objects of an API version and kind can be converted.
func Known(apiVersion, kind string) bool { return of(apiVersion, kind) != nil }

// conversion is the account of one.
type conversion struct {
	hub      string
	findings finding.Findings
	aside    map[string]any
}

func (c *conversion) note(reason, field, message string, args ...any) {
	c.findings = append(c.findings, finding.Finding{Field: field, Reason: reason, Message: fmt.Sprintf(message, args...)})
}

func (c *conversion) invalid(field, message string, args ...any) {
	c.note(v1alpha1.ReasonInvalid, field, message, args...)
}

func (c *conversion) keepAside(field string, value any) {
	c.aside[field] = value
	c.note(ReasonUnknownField, field, "is no field that is known, and has no effect (annotation %s keeps it): see what it was for, and take it out", AnnotationNotConverted)
}

// Convert returns the VirtualMesh that an object, of which [Known] is true, is for a hub in the given namespace: nil if it is
// not valid. The findings say what became of what was not carried over as it is. The object is not changed.
func Convert(object map[string]any, hub string) (*v1alpha1.VirtualMesh, finding.Findings) {
	g := generationOf(object)
	c := &conversion{hub: hub, aside: map[string]any{}}

	given := g.spec()
	for _, key := range slices.Sorted(maps.Keys(object)) {
		switch key {
		case "apiVersion", "kind", "metadata":
		case "spec":
			c.read(key, object[key], reflect.ValueOf(given).Elem(), false)
		case "status":
			c.note(ReasonNotCarriedOver, key, "is left out: the hub writes one of its own")
		default:
			c.keepAside(key, object[key])
		}
	}
	vm := &v1alpha1.VirtualMesh{ObjectMeta: c.metadata(g, object["metadata"])}
	vm.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("VirtualMesh"))
	if c.valid() {
		vm.Spec = given.convert(c)
	}
	if !c.valid() {
		return nil, c.findings
	}
	return vm, c.findings
}

func (c *conversion) valid() bool { return len(c.findings.With(v1alpha1.ReasonInvalid)) == 0 }

// metadata is read when the spec has been, and it is known what has to be kept aside.
func (c *conversion) metadata(g *Generation, value any) metav1.ObjectMeta {
	all, ok := value.(map[string]any)
	if !ok {
		c.invalid("metadata", "must be an object with a name")
		return metav1.ObjectMeta{}
	}
	var given struct {
		Name        string            `json:"name" required:"true"`
		Namespace   string            `json:"namespace"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	}
	own := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		switch key {
		case "name", "namespace", "labels", "annotations":
			own[key] = all[key]
		default:
			c.note(ReasonNotCarriedOver, "metadata."+key, "is left out: it belongs to the old object")
		}
	}
	c.read("metadata", own, reflect.ValueOf(&given).Elem(), false)
	if given.Namespace == "" {
		given.Namespace = metav1.NamespaceDefault
		c.note(ReasonDefaulted, "metadata.namespace", "is missing, and taken to be %s: add it if it is another one", given.Namespace)
	}
	if _, applied := given.Annotations[lastApplied]; applied {
		delete(given.Annotations, lastApplied)
		c.note(ReasonNotCarriedOver, "metadata.annotations."+lastApplied, "is left out: kubectl writes one of its own")
	}
	out := metav1.ObjectMeta{
		Name:        g.NameOf(given.Namespace, given.Name),
		Namespace:   c.hub,
		Labels:      given.Labels,
		Annotations: c.annotate(given.Annotations),
	}
	c.checkMetadata(given.Name, given.Namespace, out)
	return out
}

// lastApplied is where kubectl keeps the manifest itself.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// annotate adds what was kept aside.
func (c *conversion) annotate(annotations map[string]string) map[string]string {
	if len(c.aside) == 0 {
		return annotations
	}
	aside, err := json.Marshal(c.aside)
	if err != nil {
		c.invalid(AnnotationNotConverted, "what cannot be converted cannot be kept either: %v", err)
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	if _, taken := annotations[AnnotationNotConverted]; taken {
		c.note(ReasonNotCarriedOver, "metadata.annotations."+AnnotationNotConverted, "is left out: other fields are kept under this name now")
	}
	annotations[AnnotationNotConverted] = string(aside)
	return annotations
}

// checkMetadata finds what no API server takes.
func (c *conversion) checkMetadata(name, namespace string, m metav1.ObjectMeta) {
	for _, p := range validation.IsDNS1123Subdomain(name) {
		c.invalid("metadata.name", "%s", p)
	}
	for _, p := range validation.IsDNS1123Label(namespace) {
		c.invalid("metadata.namespace", "%s", p)
	}
	path := field.NewPath("metadata")
	for _, p := range append(metavalidation.ValidateLabels(m.Labels, path.Child("labels")), apivalidation.ValidateAnnotations(m.Annotations, path.Child("annotations"))...) {
		c.invalid(p.Field, "%s", p.ErrorBody())
	}
}
