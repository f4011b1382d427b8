package meshctl

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

func newRotationApprove(c *cli) *cobra.Command {
	return newRotationWord(c, v1alpha1.VerificationContinue, "approve", "Say that a rotation may take its next step",
		`Writes a CertificateVerification that says CONTINUE of the step in which the rotation is now. It is what manual verification waits
for; elsewhere it is the way to waive a mesh that cannot be waited for.`)
}

func newRotationRollback(c *cli) *cobra.Command {
	return newRotationWord(c, v1alpha1.VerificationRollback, "rollback", "Take a rotation back by a step",
		`Writes a CertificateVerification that says ROLLBACK of the step in which the rotation is now. It goes back one step and waits there
for the next word: rollback again goes further back, approve goes forth again.`)
}

func newRotationWord(c *cli, action v1alpha1.VerificationAction, use, short, long string) *cobra.Command {
	var waive []string
	cmd := &cobra.Command{
		Use:   use + " [VIRTUALMESH]",
		Short: short,
		Long: long + `

--waive names a mesh that this step does not wait for, and why; the reason is kept. The mesh stays where it is: what it trusts and
signs does not follow, so its requests to the others may fail.`,
		Example: "  meshctl rotation " + use + " --waive 'istiod-istio-system-west=the cluster was shut down for good'",
		Args:    optionalVirtualMesh,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			return c.say(ctx, action, args, waive)
		},
	}
	cmd.Flags().StringArrayVar(&waive, "waive", nil, "a mesh that is not waited for, as MESH=REASON; may be repeated")
	return cmd
}

// say writes a person's word on the rotation as it is now, and tells what came of it.
func (c *cli) say(ctx context.Context, action v1alpha1.VerificationAction, args, waive []string) error {
	hub, vm, err := c.virtualMesh(ctx, args)
	if err != nil {
		return err
	}
	if vm.Spec.Suspend { // the word would count later, when nobody thinks of it
		return suspended(vm)
	}
	v, err := hub.rotation(ctx, vm)
	if err != nil {
		return err
	}
	if !v.UnderWay || v.RotationID == "" || v.Place == "" {
		return fmt.Errorf("no rotation of VirtualMesh %s is under way; `meshctl rotation start` begins one", vm.Name)
	}
	waivers, err := v.waivers(waive)
	if err != nil {
		return err
	}
	word := &v1alpha1.CertificateVerification{
		ObjectMeta: metav1.ObjectMeta{Namespace: vm.Namespace, GenerateName: vm.Name + "-" + strings.ToLower(string(action)) + "-"},
		Spec: v1alpha1.CertificateVerificationSpec{
			VirtualMesh: v1alpha1.ObjectRef{Name: vm.Name, Namespace: vm.Namespace},
			RotationID:  v.RotationID, Step: v.Place, Action: action, Waive: waivers,
		},
	}
	if err := hub.Create(ctx, word, client.FieldOwner(owner)); err != nil {
		return err
	}
	c.progress.did("CertificateVerification %s/%s: %s rotation %s in %s", word.Namespace, word.Name, action, v.RotationID, v.Place)
	// A word that nothing waits for yet stays pending.
	atOnce := v.awaitsWord() || action == v1alpha1.VerificationRollback
	if err := hub.answered(ctx, word, atOnce); err != nil {
		return err
	}
	switch word.Status.State {
	case v1alpha1.VerificationInvalid:
		return fmt.Errorf("it is INVALID and moves nothing: %s", printable(strings.Join(word.Status.Errors, "; ")))
	case v1alpha1.VerificationPending:
		_, err = fmt.Fprintln(c.Out, "PENDING: it counts when all else that the step waits for is there; waivers count at once")
	default:
		_, err = fmt.Fprintln(c.Out, word.Status.State)
	}
	return err
}

// answered waits until the hub has judged a word; that it is pending is an answer unless one is due at once.
func (c *cluster) answered(ctx context.Context, word *v1alpha1.CertificateVerification, atOnce bool) error {
	return c.until(ctx, func(ctx context.Context) (string, error) {
		if err := c.Get(ctx, client.ObjectKeyFromObject(word), word); err != nil {
			return "", err
		}
		if s := word.Status.State; s == "" || s == v1alpha1.VerificationPending && atOnce {
			return "waiting for the hub to follow it: see that isthmus-hub runs in namespace " + word.Namespace, nil
		}
		return "", nil
	}, changesOf(&v1alpha1.CertificateVerificationList{}, client.InNamespace(word.Namespace), client.MatchingFields{"metadata.name": word.Name}))
}

// waivers reads MESH=REASON, where the mesh is a member by its name, with or without its namespace.
func (v *rotationView) waivers(flags []string) (out []v1alpha1.Waiver, err error) {
	for _, flag := range flags {
		name, reason, ok := strings.Cut(flag, "=")
		if reason = strings.TrimSpace(reason); !ok || reason == "" {
			return nil, usagef("--waive %q: want MESH=REASON; the reason is kept", flag)
		}
		mesh, err := v.mesh(name)
		if err != nil {
			return nil, usagef("--waive: %w", err)
		}
		if slices.ContainsFunc(out, func(w v1alpha1.Waiver) bool { return w.Mesh == mesh }) {
			return nil, usagef("--waive names mesh %s twice", mesh)
		}
		out = append(out, v1alpha1.Waiver{Mesh: mesh, Reason: reason})
	}
	return out, nil
}

func (v *rotationView) mesh(name string) (string, error) {
	var members []string
	for _, m := range v.Meshes {
		if m.Mesh == name || strings.HasPrefix(m.Mesh, name+".") {
			return m.Mesh, nil
		}
		members = append(members, m.Mesh)
	}
	return "", fmt.Errorf("mesh %q is no member of VirtualMesh %s; members are %s", name, v.VirtualMesh, strings.Join(members, ", "))
}
