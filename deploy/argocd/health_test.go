// Package argocd_test runs the health check as Argo CD does, by an interpreter of Lua.
package argocd_test

import (
	"os"
	"testing"

	lua "github.com/yuin/gopher-lua"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

func TestHealth(t *testing.T) {
	source, err := os.ReadFile("health.lua")
	if err != nil {
		t.Fatal(err)
	}
	condition := func(kind string, status metav1.ConditionStatus, message string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Message: message, Reason: "X"}
	}
	vm := func(edit func(*v1alpha1.VirtualMesh)) *v1alpha1.VirtualMesh {
		vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Generation: 2}}
		vm.Status.ObservedGeneration = 2
		edit(vm)
		return vm
	}
	conditions := func(vm *v1alpha1.VirtualMesh, c ...metav1.Condition) { vm.Status.Conditions = c }
	for name, tc := range map[string]struct {
		obj             any
		status, message string
	}{
		"new": {vm(func(*v1alpha1.VirtualMesh) {}), "Progressing", "Waiting for the hub"},
		"changed": {vm(func(vm *v1alpha1.VirtualMesh) {
			vm.Status.ObservedGeneration = 1
			conditions(vm, condition("Ready", "True", "in force"))
		}), "Progressing", "Waiting for the hub to see the last change"},
		"on its way": {vm(func(vm *v1alpha1.VirtualMesh) {
			conditions(vm, condition("Ready", "False", "ordered"), condition("Stalled", "False", ""))
		}), "Progressing", "ordered"},
		"in force": {vm(func(vm *v1alpha1.VirtualMesh) {
			conditions(vm, condition("Ready", "True", "in force in 2 meshes"))
		}), "Healthy", "in force in 2 meshes"},
		"invalid": {vm(func(vm *v1alpha1.VirtualMesh) {
			vm.Status.State = v1alpha1.StateInvalid
			conditions(vm, condition("Ready", "False", "no such mesh"))
		}), "Degraded", "no such mesh"},
		"stalled": {vm(func(vm *v1alpha1.VirtualMesh) {
			conditions(vm, condition("Ready", "False", "x"), condition("Stalled", "True", "restore the Secret"))
		}), "Degraded", "restore the Secret"},
		"suspended": {vm(func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.Suspend = true
			conditions(vm, condition("Ready", "True", "in force"))
		}), "Suspended", "spec.suspend holds everything as it is"},
		"cluster away": {&v1alpha1.KubernetesCluster{Status: v1alpha1.KubernetesClusterStatus{ConditionedStatus: v1alpha1.ConditionedStatus{
			Conditions: []metav1.Condition{condition("Ready", "True", "prepared"), condition("Connected", "False", "no heartbeat")},
		}}}, "Degraded", "no heartbeat"},
	} {
		t.Run(name, func(t *testing.T) {
			obj, err := runtime.DefaultUnstructuredConverter.ToUnstructured(tc.obj)
			if err != nil {
				t.Fatal(err)
			}
			l := lua.NewState()
			defer l.Close()
			l.SetGlobal("obj", value(l, obj))
			if err := l.DoString(string(source)); err != nil {
				t.Fatal(err)
			}
			got := l.Get(-1).(*lua.LTable)
			if s, m := got.RawGetString("status").String(), got.RawGetString("message").String(); s != tc.status || m != tc.message {
				t.Errorf("%s: %s; want %s: %s", s, m, tc.status, tc.message)
			}
		})
	}
}

// value turns what JSON can say into Lua.
func value(l *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case map[string]any:
		t := l.NewTable()
		for k, e := range v {
			t.RawSetString(k, value(l, e))
		}
		return t
	case []any:
		t := l.NewTable()
		for _, e := range v {
			t.Append(value(l, e))
		}
		return t
	case string:
		return lua.LString(v)
	case bool:
		return lua.LBool(v)
	case int64:
		return lua.LNumber(v)
	case float64:
		return lua.LNumber(v)
	}
	return lua.LNil
}
