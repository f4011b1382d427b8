package meshctl_test

import (
	"archive/tar"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// TestSnapshotHoldsNoSecret plants secrets wherever they can be in Secrets and looks for them in the archive.
func TestSnapshotHoldsNoSecret(t *testing.T) {
	w := newWorld(t)
	const planted = "correct-horse-battery-staple"
	encoded := base64.StdEncoding.EncodeToString([]byte(planted))
	for namespace, c := range map[string]*clusterOf{"isthmus-system": {w.hub}, "isthmus-agent": {w.member}} {
		c.Namespace(t, namespace, nil)
		c.create(t, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: "virtual-mesh.isthmus-system.1", Labels: map[string]string{v1alpha1.LabelRootRole: "Signing"},
				Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: `{"data":{"ca-key.pem":"` + encoded + `"}}`},
			},
			Data: map[string][]byte{"ca-key.pem": []byte(planted)},
		})
	}
	c := &clusterOf{w.hub}
	c.create(t, &v1alpha1.VirtualMesh{
		ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "virtual-mesh"},
		Spec:       v1alpha1.VirtualMeshSpec{DisplayName: "to be found", Meshes: []v1alpha1.ObjectRef{{Name: "istiod-istio-system-east"}}},
	})
	file := filepath.Join(t.TempDir(), "snapshot.tar.gz")
	w.ok(t, "debug", "snapshot", "--file", file, "--member-context", "member")
	files := untar(t, file)
	all := ""
	for name, content := range files {
		all += name + "\n" + content
	}
	for _, secret := range []string{planted, encoded} {
		if strings.Contains(all, secret) {
			t.Errorf("%q is in the snapshot", secret)
		}
	}
	// What shall be in it is: the search above can find something.
	for name, want := range map[string]string{
		"hub/VirtualMeshList.yaml": "to be found",
		"hub/secrets.yaml":         "virtual-mesh.isthmus-system.1",
		"member/secrets.yaml":      "virtual-mesh.isthmus-system.1",
		"versions.yaml":            "kubernetes: v1.",
		"check.yaml":               "ISTH1005",
	} {
		if !strings.Contains(files["isthmus-snapshot/"+name], want) {
			t.Errorf("%s lacks %q: %s", name, want, files["isthmus-snapshot/"+name])
		}
	}
	for name := range files {
		if strings.HasSuffix(name, ".error") {
			t.Errorf("%s: %s", name, files[name])
		}
	}
}

func untar(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(data)
	}
}
