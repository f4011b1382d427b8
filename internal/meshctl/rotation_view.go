package meshctl

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/meshctl/diagnosis"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// rotationView is where the rotation of a virtual mesh stands.
type rotationView struct {
	VirtualMesh string                `json:"virtualMesh"`
	RotationID  string                `json:"rotationID,omitempty"`
	Step        v1alpha1.RotationStep `json:"step,omitempty"`
	Place       v1alpha1.RotationStep `json:"place,omitempty"`
	Since       metav1.Time           `json:"since,omitzero"`
	// UnderWay: it is not over in every mesh.
	UnderWay bool       `json:"underWay"`
	Waits    []string   `json:"waits,omitempty"`
	Meshes   []meshView `json:"meshes,omitempty"`

	vm *v1alpha1.VirtualMesh
}

// meshView is how far one mesh has come: with its CA, or with its gateways of limited trust.
type meshView struct {
	// Mesh in the form "<name>.<namespace>".
	Mesh    string                      `json:"mesh"`
	Purpose v1alpha1.CertificatePurpose `json:"purpose"`
	Stage   v1alpha1.RotationStage      `json:"stage,omitempty"`
	Back    bool                        `json:"back,omitempty"`
	// Alone: it joins, or comes after.
	Alone bool `json:"alone,omitempty"`
	// Closed: the rotation is over here.
	Closed bool `json:"closed,omitempty"`
	// CarriedOut: the agent has carried the order out. What follows is known only then.
	CarriedOut bool `json:"carriedOut"`
	// Istiod are replicas that are as ordered; Gateways are those, of limited trust, in their place.
	Istiod     *v1alpha1.Progress `json:"istiod,omitempty"`
	Gateways   *v1alpha1.Progress `json:"gateways,omitempty"`
	ConfigMaps *v1alpha1.Progress `json:"configMaps,omitempty"`
	Proxies    *proxyView         `json:"proxies,omitempty"`
}

// proxyView counts proxies.
type proxyView struct {
	// Progress of what the stage asks for.
	v1alpha1.Progress `json:",inline"`
	// Asked says what that is.
	Asked    string   `json:"asked"`
	Live     int32    `json:"live"`
	Behind   int32    `json:"behind"`
	Unknown  int32    `json:"unknown"`
	Laggards []string `json:"laggards,omitempty"`
}

// virtualMesh finds a VirtualMesh of the hub by its name, or the only one there is.
func (c *cli) virtualMesh(ctx context.Context, args []string) (*cluster, *v1alpha1.VirtualMesh, error) {
	hub, err := c.hub()
	if err != nil {
		return nil, nil, err
	}
	vm, err := hub.virtualMesh(ctx, c.namespace, args)
	return hub, vm, err
}

// virtualMesh finds a VirtualMesh by its name, or the only one there is.
func (c *cluster) virtualMesh(ctx context.Context, namespace string, args []string) (*v1alpha1.VirtualMesh, error) {
	list := &v1alpha1.VirtualMeshList{}
	if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil {
		return nil, c.installed(err)
	}
	var names []string
	for i := range list.Items {
		if len(args) == 0 && len(list.Items) == 1 || len(args) > 0 && list.Items[i].Name == args[0] {
			return &list.Items[i], nil
		}
		names = append(names, list.Items[i].Name)
	}
	switch {
	case len(names) == 0:
		return nil, fmt.Errorf("there is no VirtualMesh in namespace %s", namespace)
	case len(args) == 0:
		return nil, usagef("say which VirtualMesh is meant: %s", strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("no VirtualMesh in namespace %s is named %q; there are %s", namespace, args[0], strings.Join(names, ", "))
}

// rotation reads where the rotation of a virtual mesh stands.
func (c *cluster) rotation(ctx context.Context, vm *v1alpha1.VirtualMesh) (*rotationView, error) {
	orders := &v1alpha1.IssuedCertificateList{}
	if err := c.List(ctx, orders); err != nil {
		return nil, err
	}
	return viewRotation(vm, orders), nil
}

func viewRotation(vm *v1alpha1.VirtualMesh, orders *v1alpha1.IssuedCertificateList) *rotationView {
	v := &rotationView{VirtualMesh: vm.Name, vm: vm}
	if r := vm.Status.Rotation; r != nil {
		v.RotationID, v.Step, v.Place, v.Since, v.Waits = r.RotationID, r.Step, r.Place, r.Since, r.Waits
	}
	v.UnderWay = !slices.Contains([]v1alpha1.RotationStep{"", v1alpha1.StepNotRotating, v1alpha1.StepFinished, v1alpha1.StepPreviousCA}, v.Step)
	if vm.Status.Accepted == nil {
		return v
	}
	trust := accept.TrustIn(vm.Status.Accepted)
	told := map[*v1alpha1.IssuedCertificate]bool{}
	for _, ref := range vm.Status.Accepted.Spec.Meshes {
		m := meshView{Mesh: kube.Qualified(ref.Name, ref.Namespace)}
		if trust != nil {
			m.Purpose = trust.Purpose
		}
		if o := orderOf(orders, trust.Order(ref.Name), ref.Namespace); o != nil {
			m.fill(o)
			told[o] = true
		}
		v.Meshes = append(v.Meshes, m)
	}
	for _, o := range ordersBeside(vm, orders, told) {
		if o.Spec.Rotation == nil {
			continue
		}
		mesh, _ := membership.OrderedFor(o.Name)
		m := meshView{Mesh: kube.Qualified(mesh, o.Namespace)}
		m.fill(o)
		v.Meshes = append(v.Meshes, m)
	}
	v.UnderWay = v.UnderWay || slices.ContainsFunc(v.Meshes, func(m meshView) bool { return m.Stage != "" && !m.Closed })
	return v
}

// fill reads an order and the evidence that answers it. Evidence for an earlier one says nothing.
func (m *meshView) fill(o *v1alpha1.IssuedCertificate) {
	_, m.Purpose = membership.OrderedFor(o.Name)
	r := o.Spec.Rotation
	if r != nil {
		m.Stage, m.Back, m.Alone, m.Closed = r.Stage, r.Back, r.Alone, r.Closed
	}
	carried := o.Status.Carried
	m.CarriedOut = o.Spec.Serial == 0 || carried != nil && carried.Serial == o.Spec.Serial
	if !m.CarriedOut {
		return
	}
	observed, err := rotation.Observe(o)
	if err != nil { // nobody follows what makes no sense
		observed = rotation.Evidence{Order: &rotation.Order{}}
	}
	if seen := o.Status.ControlPlane; seen != nil {
		replicas := &v1alpha1.Progress{Total: int32(len(seen.Replicas))}
		for _, replica := range observed.Replicas {
			if replica.AsOrdered(observed.Order) {
				replicas.Done++
			}
		}
		if m.Purpose == v1alpha1.PurposeGateway {
			m.Gateways = replicas
		} else {
			m.Istiod = replicas
		}
		m.ConfigMaps = seen.RootConfigMaps
	}
	if p := o.Status.Proxies; p != nil {
		done := min(p.SignedByNew, p.TrustsNew)
		if _, drops := observed.Order.Dropped(); drops {
			done = min(done, p.RefusesOld)
		}
		m.Proxies = &proxyView{
			Progress: v1alpha1.Progress{Done: done, Total: p.Total}, Asked: asked(r),
			Live: p.Live, Behind: p.Behind, Unknown: p.Unknown, Laggards: p.Laggards,
		}
	}
}

// asked is what a stage asks of proxies, to be read after a number of them.
func asked(r *v1alpha1.OrderRotation) string {
	switch {
	case r == nil || r.Closed:
		return "have a leaf under the root"
	case r.Stage == v1alpha1.StageNewOnly:
		return "refuse the old root"
	case r.Stage == v1alpha1.StageOldOnly && !r.Half:
		return "refuse the new root"
	case r.Stage == v1alpha1.StageNewSigns && !r.Back:
		return "have a leaf under the new root"
	case r.Back && r.Stage != v1alpha1.StageNewSigns:
		return "have a leaf under the old root"
	}
	return "accept both roots"
}

// awaitsWord tells whether a person has to speak.
func (v *rotationView) awaitsWord() bool { return diagnosis.AwaitsWord(v.vm.Status.Rotation) }

// waitsFor is in one line what the rotation waits for.
func (v *rotationView) waitsFor() string {
	if len(v.Waits) == 0 {
		return fmt.Sprintf("the rotation of VirtualMesh %s is in step %s", v.VirtualMesh, v.Step)
	}
	return fmt.Sprintf("the rotation of VirtualMesh %s is in step %s and waits: %s", v.VirtualMesh, v.Step, printable(strings.Join(v.Waits, "; ")))
}

// lines are the same facts as write, each line for itself, without anything that changes by itself.
func (v *rotationView) lines() []string {
	out := []string{fmt.Sprintf("VirtualMesh %s: %s", v.VirtualMesh, v.headline())}
	for i := range v.Meshes {
		m := &v.Meshes[i]
		line := m.Mesh + ": " + m.stage() + ", " + m.order()
		if m.Istiod != nil {
			line += ", istiod " + fraction(m.Istiod)
		}
		if m.Gateways != nil {
			line += ", gateways " + fraction(m.Gateways)
		}
		if m.ConfigMaps != nil {
			line += ", namespaces " + fraction(m.ConfigMaps)
		}
		if p := m.Proxies; p != nil {
			line += fmt.Sprintf(", proxies %s %s, %d behind, %d unknown", fraction(&p.Progress), p.Asked, p.Behind, p.Unknown)
		}
		out = append(out, line)
	}
	for _, laggard := range v.laggards() {
		out = append(out, "laggard of "+printable(laggard))
	}
	for _, wait := range v.Waits {
		out = append(out, "waits: "+printable(wait))
	}
	return out
}

func (v *rotationView) headline() string {
	switch {
	case v.Step == "" || v.Step == v1alpha1.StepNotRotating:
		return "no rotation"
	case v.RotationID == "":
		return string(v.Step)
	}
	return fmt.Sprintf("rotation %s, %s", v.RotationID, v.Step)
}

// stage in words.
func (m *meshView) stage() string {
	if m.Stage == "" {
		return "not rotated yet"
	}
	words := []string{string(m.Stage)}
	for _, mark := range []struct {
		holds bool
		word  string
	}{{m.Back, "(back)"}, {m.Alone, "(alone)"}, {m.Closed, "(over)"}} {
		if mark.holds {
			words = append(words, mark.word)
		}
	}
	return strings.Join(words, " ")
}

func (m *meshView) order() string {
	if m.CarriedOut {
		return "carried out"
	}
	return "not carried out yet"
}

func fraction(p *v1alpha1.Progress) string {
	if p == nil {
		return ""
	}
	return fmt.Sprintf("%d/%d", p.Done, p.Total)
}

// barWidth is that of the inside of a bar.
const barWidth = 20

// bar shows a progress.
func bar(p v1alpha1.Progress) string {
	full := barWidth
	if p.Total > 0 {
		full = int(barWidth * max(0, min(p.Done, p.Total)) / p.Total)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "]"
}

// rotation writes where a rotation stands.
func (d *description) rotation(v *rotationView) {
	d.section("Rotation")
	d.row("ID", v.RotationID)
	d.row("Step", string(v.Step))
	d.row("Place", string(v.Place))
	if !v.Since.IsZero() {
		d.row("Since", fmt.Sprintf("%s (%s)", date(v.Since), age(v.Since)))
	}
	d.list("Waits", v.Waits)
	var gateways, authorities [][]string
	for _, m := range v.Meshes {
		cells := []string{m.Mesh, m.stage(), m.order()}
		if m.Purpose == v1alpha1.PurposeGateway {
			gateways = append(gateways, append(cells, fraction(m.Gateways)))
			continue
		}
		cells = append(cells, fraction(m.Istiod), fraction(m.ConfigMaps))
		if p := m.Proxies; p != nil {
			cells = append(cells, bar(p.Progress), fraction(&p.Progress)+" "+p.Asked, fmt.Sprint(p.Behind), fmt.Sprint(p.Unknown))
		}
		authorities = append(authorities, cells)
	}
	d.table("Progress of the gateways", []string{"MESH", "STAGE", "ORDER", "GATEWAYS"}, gateways)
	d.table("Progress", []string{"MESH", "STAGE", "ORDER", "ISTIOD", "NAMESPACES", "PROXIES", "", "BEHIND", "UNKNOWN"}, authorities)
	d.list("Laggards", v.laggards())
}

// laggards of all meshes, as far as they are named.
func (v *rotationView) laggards() (out []string) {
	for _, m := range v.Meshes {
		if m.Proxies == nil {
			continue
		}
		for _, l := range m.Proxies.Laggards {
			out = append(out, m.Mesh+": "+l)
		}
	}
	return out
}

// shownSteps is how many of the latest steps are shown.
const shownSteps = 10

// steps writes the latest steps of a rotation.
func (d *description) steps(steps []v1alpha1.CertificateRotationCondition) {
	if len(steps) == 0 {
		return
	}
	d.section("Steps taken")
	for _, s := range steps[max(0, len(steps)-shownSteps):] {
		d.row(date(s.Timestamp), string(s.State), strings.Join(append([]string{s.Message}, s.Errors...), "; "))
	}
}
