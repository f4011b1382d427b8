package meshctl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
)

func newRotationStart(c *cli) *cobra.Command {
	var force, watch bool
	cmd := &cobra.Command{
		Use:   "start [VIRTUALMESH]",
		Short: "Have a new root made, and the present one replaced by it while traffic flows",
		Long: `Writes a fresh value into rotationTrigger, of spec.mtlsConfig.shared or spec.mtlsConfig.limited, of the VirtualMesh. If that spec comes out of Git, change it there
instead. A root that you provide is replaced by putting another one into its Secret; that of Vault is replaced there.

It is refused while a rotation is under way. With --force that one is brought to its nearer end, and the next one begins.`,
		Args: optionalVirtualMesh,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := c.watching(cmd, watch)
			defer cancel()
			hub, vm, err := c.virtualMesh(ctx, args)
			if err != nil {
				return err
			}
			before, err := hub.rotation(ctx, vm)
			if err != nil {
				return err
			}
			if before.UnderWay && !force {
				return fmt.Errorf("rotation %s of VirtualMesh %s is under way, in step %s; see `meshctl rotation status --watch`, or use --force", before.RotationID, vm.Name, before.Step)
			}
			if err := hub.trigger(ctx, vm); err != nil {
				return err
			}
			c.progress.did("VirtualMesh %s: rotationTrigger is %s", vm.Name, *rotationTrigger(vm))
			if !watch {
				c.progress.did("See `meshctl rotation status %s --watch`", vm.Name)
				return nil
			}
			return c.watchRotation(ctx, hub, client.ObjectKeyFromObject(vm), begunAndOver(before.RotationID, vm.Generation))
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also while another rotation is under way")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on until the rotation is over")
	return cmd
}

// trigger starts a rotation, on the version of the VirtualMesh that was read.
func (c *cluster) trigger(ctx context.Context, vm *v1alpha1.VirtualMesh) error {
	if err := canTrigger(vm); err != nil {
		return err
	}
	was := vm.DeepCopy()
	*rotationTrigger(vm) = freshTrigger()
	return c.edit(ctx, was, vm)
}

// edit writes what was changed of a VirtualMesh, on the spec that was read: whoever has edited it meanwhile has not seen this. That
// its status was written is no matter.
func (c *cluster) edit(ctx context.Context, was, is *v1alpha1.VirtualMesh) error {
	conflict := false
	return retry.RetryOnConflict(whileStatusIsWritten, func() error {
		if conflict {
			now := &v1alpha1.VirtualMesh{}
			if err := c.Get(ctx, client.ObjectKeyFromObject(was), now); err != nil {
				return err
			}
			if now.UID != was.UID || now.Generation != was.Generation {
				return fmt.Errorf("VirtualMesh %s was edited meanwhile; run this command again", was.Name)
			}
			was.ResourceVersion, is.ResourceVersion = now.ResourceVersion, now.ResourceVersion
		}
		err := c.Patch(ctx, is, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{}), client.FieldOwner(owner))
		conflict = apierrors.IsConflict(err)
		return err
	})
}

// whileStatusIsWritten outlasts a hub that writes a status several times a second, as it does when steps of rotations end: six
// seconds.
var whileStatusIsWritten = wait.Backoff{Steps: 20, Duration: 10 * time.Millisecond, Factor: 1.3, Jitter: 0.3}

// suspended is the error of what cannot be done to a VirtualMesh that is suspended.
func suspended(vm *v1alpha1.VirtualMesh) error {
	return fmt.Errorf("VirtualMesh %s: spec.suspend is true, so that nothing is changed; unset it first", vm.Name)
}

// canTrigger tells why rotationTrigger would not replace the root of a VirtualMesh; nil if it would.
func canTrigger(vm *v1alpha1.VirtualMesh) error {
	t := accept.TrustOf(vm.Spec.MTLSConfig)
	switch {
	case vm.Spec.Suspend:
		return suspended(vm)
	case t == nil:
		return fmt.Errorf("VirtualMesh %s has no spec.mtlsConfig: there is no common root to replace", vm.Name)
	case t.Vault != nil:
		v := t.Vault
		return fmt.Errorf("VirtualMesh %s: its root is that of Vault; make another root the default issuer of the engine of %s at %s, and the rotation begins when every member has found it",
			vm.Name, printable(v.CAPath), printable(v.Server))
	case t.Secret() != nil:
		ref := t.Secret()
		return fmt.Errorf("VirtualMesh %s: its root is that of Secret %s; put another one there, and the rotation begins", vm.Name, ref.Name)
	}
	return nil
}

// rotationTrigger of a VirtualMesh that has one.
func rotationTrigger(vm *v1alpha1.VirtualMesh) *string {
	if m := vm.Spec.MTLSConfig; m.Limited != nil {
		return &m.Limited.RotationTrigger
	}
	return &vm.Spec.MTLSConfig.Shared.RotationTrigger
}

// freshTrigger is a value that rotationTrigger never had.
func freshTrigger() string { return time.Now().UTC().Format(time.RFC3339Nano) }

// begunAndOver tells when a rotation is over that is to begin after that of the given ID, by an edit of the given generation.
func begunAndOver(before string, generation int64) func(*rotationView) (bool, error) {
	begun, before := false, withoutTurn(before)
	return func(v *rotationView) (bool, error) {
		s := &v.vm.Status
		if s.ObservedGeneration >= generation && s.State == v1alpha1.StateInvalid {
			return false, fmt.Errorf("VirtualMesh %s is invalid: %s", v.VirtualMesh, printable(strings.Join(s.Errors, "; ")))
		}
		begun = begun || withoutTurn(v.RotationID) != before
		return begun && !v.UnderWay, nil
	}
}

// withoutTurn is the ID of a rotation, however often it was turned round.
func withoutTurn(id string) string {
	id, _, _ = strings.Cut(id, ".")
	return id
}
