package kube

import (
	"encoding/json"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// upToDate reports whether applying want to live as owner would change nothing: all that want says is so, and owner owns
// nothing that want does not say. It spares the API server a write, and the cluster an event, per reconciliation.
func upToDate(live, want *unstructured.Unstructured, owner, subresource string) bool {
	for key, v := range want.Object {
		switch key {
		case "apiVersion", "kind":
		case "metadata":
			meta, _ := v.(map[string]any)
			liveMeta, _ := live.Object["metadata"].(map[string]any)
			for _, f := range []string{"labels", "annotations", "ownerReferences", "finalizers"} {
				if w, ok := meta[f]; ok && !contains(liveMeta[f], w) {
					return false
				}
			}
		default:
			if !contains(live.Object[key], v) {
				return false
			}
		}
	}
	for _, m := range live.GetManagedFields() {
		if m.Manager != owner || m.Subresource != subresource || m.FieldsV1 == nil {
			continue
		}
		var owned map[string]any
		if err := json.Unmarshal(m.FieldsV1.GetRawBytes(), &owned); err != nil || !covered(owned, want.Object) {
			return false
		}
	}
	return true
}

// contains reports whether live has all that want has. Lists must be equal, but for lists of conditions, which are maps.
func contains(live, want any) bool {
	switch w := want.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		if !ok {
			return len(w) == 0 && live == nil
		}
		for k, v := range w {
			if !contains(l[k], v) {
				return false
			}
		}
		return true
	case []any:
		l, ok := live.([]any)
		if !ok {
			return len(w) == 0 && live == nil
		}
		if isConditions(w) {
			for _, c := range w {
				if !contains(element(l, "type", c.(map[string]any)["type"]), c) {
					return false
				}
			}
			return true
		}
		if len(l) != len(w) {
			return false
		}
		for i := range w {
			if !contains(l[i], w[i]) {
				return false
			}
		}
		return true
	default:
		return equalScalar(live, want)
	}
}

func equalScalar(a, b any) bool {
	if x, ok := number(a); ok {
		y, ok := number(b)
		return ok && x == y
	}
	return reflect.DeepEqual(a, b)
}

// number unifies the numeric types that decoders of JSON and converters of structs yield.
func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	case int32:
		return float64(n), true
	case int:
		return float64(n), true
	}
	return 0, false
}

func isConditions(list []any) bool {
	for _, e := range list {
		m, ok := e.(map[string]any)
		if !ok || m["type"] == nil || m["status"] == nil || m["lastTransitionTime"] == nil {
			return false
		}
	}
	return len(list) > 0
}

func element(list []any, key string, value any) any {
	for _, e := range list {
		if m, ok := e.(map[string]any); ok && equalScalar(m[key], value) {
			return m
		}
	}
	return nil
}

// covered reports whether each field in owned (the format of metav1.FieldsV1) is present in want.
func covered(owned map[string]any, want any) bool {
	for key, sub := range owned {
		var child any
		switch {
		case key == ".":
			continue
		case strings.HasPrefix(key, "f:"):
			m, _ := want.(map[string]any)
			v, ok := m[key[2:]]
			if !ok {
				return false
			}
			child = v
		case strings.HasPrefix(key, "k:"):
			var keys map[string]any
			list, _ := want.([]any)
			if json.Unmarshal([]byte(key[2:]), &keys) != nil {
				return false
			}
			for _, e := range list {
				if contains(e, keys) {
					child = e
				}
			}
			if child == nil {
				return false
			}
		case strings.HasPrefix(key, "v:"):
			var v any
			list, _ := want.([]any)
			if json.Unmarshal([]byte(key[2:]), &v) != nil || !has(list, v) {
				return false
			}
			continue
		default:
			return false
		}
		if s, ok := sub.(map[string]any); ok && !covered(s, child) {
			return false
		}
	}
	return true
}

func has(list []any, v any) bool {
	for _, e := range list {
		if equalScalar(e, v) {
			return true
		}
	}
	return false
}
