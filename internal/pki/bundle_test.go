package pki_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
)

// somePool is a handful of roots to draw from.
var somePool = sync.OnceValue(func() []pki.Root {
	t := &testing.T{}
	var roots []pki.Root
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		roots = append(roots, pkitest.NewRoot(t, name, now).Root())
	}
	return roots
})

// drawText is the text of a bundle as people write them: comments, blank lines,
// missing newlines, roots that occur twice.
func drawText(t *rapid.T) ([]byte, []pki.Root) {
	comment := rapid.SampledFrom([]string{"", "\n", "# a root\n", "subject: CN=x\n\n", "# isthmus.dev/nudge 7\n", "# isthmus.dev/nudge x\n", "-----\n", "\r\n", "é\xff\n"})
	roots := rapid.SliceOfN(rapid.SampledFrom(somePool()), 1, 5).Draw(t, "roots")
	var text []byte
	for _, r := range roots {
		text = append(text, comment.Draw(t, "comment")...)
		block := r.PEM()
		if rapid.Bool().Draw(t, "windows") {
			block = bytes.ReplaceAll(block, []byte("\n"), []byte("\r\n"))
		}
		text = append(text, block...)
	}
	text = append(text, comment.Draw(t, "tail")...)
	if rapid.Bool().Draw(t, "cut") {
		// encoding/pem, and so istiod, does not take an END line that a lone \r ends.
		text = bytes.TrimRight(text, "\r\n")
	}
	return text, roots
}

func drawBundle(t *rapid.T) pki.Bundle {
	text, _ := drawText(t)
	b, err := pki.ParseBundle(text)
	if err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return b
}

func mustParse(t interface{ Fatalf(string, ...any) }, text []byte) pki.Bundle {
	b, err := pki.ParseBundle(text)
	if err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return b
}

func ids(roots []pki.Root) []pki.RootID {
	var ids []pki.RootID
	for _, r := range roots {
		ids = append(ids, r.ID())
	}
	return ids
}

func TestBundleKeepsItsBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, roots := drawText(t)
		b := mustParse(t, text)
		if !bytes.Equal(b.PEM(), text) {
			t.Fatalf("%q became %q", text, b.PEM())
		}
		if !slices.Equal(b.IDs(), ids(roots)) {
			t.Fatalf("roots %v, want %v", b.IDs(), ids(roots))
		}
	})
}

func TestBundleAppend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := drawBundle(t)
		before := b.PEM()
		r := rapid.SampledFrom(somePool()).Draw(t, "root")
		c := b.WithNudge(0).Append(r)
		again := mustParse(t, c.PEM())
		switch {
		case !bytes.Equal(b.PEM(), before):
			t.Fatal("Append changed its receiver")
		case !slices.Equal(again.IDs(), c.IDs()):
			t.Fatal("the text has other roots than the bundle")
		case b.Contains(r.ID()) && !slices.Equal(c.IDs(), b.IDs()):
			t.Fatal("a root was appended twice")
		case !b.Contains(r.ID()) && !slices.Equal(c.IDs(), append(b.IDs(), r.ID())):
			t.Fatal("the root is not the last")
		case !b.Contains(r.ID()) && !bytes.HasPrefix(c.PEM(), b.WithNudge(0).PEM()):
			t.Fatal("bytes before the new root changed")
		case !b.SubsetOf(c) || c.SameRoots(b) != b.Contains(r.ID()):
			t.Fatal("the set relation is wrong")
		}
	})
}

func TestBundleWithoutUndoesAppend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		roots := rapid.SliceOfNDistinct(rapid.SampledFrom(somePool()), 2, 5, pki.Root.ID).Draw(t, "roots")
		rest, last := roots[:len(roots)-1], roots[len(roots)-1]
		b := pki.NewBundle(rest...)
		if got := b.Append(last).Without(last.ID()); !got.Equal(b) {
			t.Fatalf("%q, want %q", got.PEM(), b.PEM())
		}
		if got := pki.NewBundle(roots...).Without(roots[0].ID()); !got.Equal(pki.NewBundle(roots[1:]...)) {
			t.Fatal("removing the first root does not leave the exact rest")
		}
	})
}

func TestBundleWithout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := drawBundle(t)
		before := b.PEM()
		r := rapid.SampledFrom(somePool()).Draw(t, "root")
		c := b.Without(r.ID())
		if !bytes.Equal(b.PEM(), before) {
			t.Fatal("Without changed its receiver")
		}
		want := slices.DeleteFunc(b.IDs(), func(id pki.RootID) bool { return id == r.ID() })
		if !slices.Equal(c.IDs(), want) || c.Contains(r.ID()) {
			t.Fatalf("roots %v, want %v", c.IDs(), want)
		}
		if c.Len() > 0 && !slices.Equal(mustParse(t, c.PEM()).IDs(), want) {
			t.Fatal("the text has other roots than the bundle")
		}
	})
}

func TestBundleLead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := drawBundle(t)
		r := rapid.SampledFrom(somePool()).Draw(t, "root")
		c := b.Lead(r.ID())
		if !b.Contains(r.ID()) {
			if !c.Equal(b) {
				t.Fatal("a root that is not there changed the bundle")
			}
			return
		}
		if c.IDs()[0] != r.ID() || !c.SameRoots(b) || c.Len() != b.Len() {
			t.Fatalf("roots %v became %v", b.IDs(), c.IDs())
		}
		if !slices.Equal(mustParse(t, c.PEM()).IDs(), c.IDs()) {
			t.Fatal("the text has other roots than the bundle")
		}
	})
}

func TestBundleNudge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := drawBundle(t)
		n := rapid.Int64Range(1, 1<<62).Draw(t, "n")
		c := b.WithNudge(n)
		again := mustParse(t, c.PEM())
		switch {
		case again.Nudge() != n:
			t.Fatalf("nudge %d reads as %d", n, again.Nudge())
		case !slices.Equal(again.IDs(), b.IDs()):
			t.Fatal("the nudge changed the roots")
		case n != b.Nudge() && c.Equal(b):
			t.Fatal("the nudge changed no byte")
		case !again.WithNudge(n + 1).WithNudge(n).Equal(c):
			t.Fatal("nudging twice is not the same as nudging once")
		case !c.WithNudge(n).Equal(c):
			t.Fatal("the same nudge changed the bytes")
		case mustParse(t, c.WithNudge(0).PEM()).Nudge() == n:
			t.Fatal("the nudge was not taken away")
		}
		extended := c.Append(somePool()[0])
		if got := mustParse(t, extended.PEM()); got.Nudge() != n || !got.Equal(extended) {
			t.Fatal("the nudge did not stay last")
		}
	})
}

func TestParseBundleRefuses(t *testing.T) {
	a, b := pkitest.NewRoot(t, "a", now), pkitest.NewRoot(t, "b", now)
	indent := func(text []byte) []byte { return []byte("  " + strings.ReplaceAll(string(text), "\n", "\n  ")) }
	for name, text := range map[string][]byte{
		"empty":                   nil,
		"comments only":           []byte("# nothing\n"),
		"key":                     a.KeyPEM(t),
		"key behind":              slices.Concat(a.PEM(), a.KeyPEM(t)),
		"first truncated":         slices.Concat(a.PEM()[:100], []byte("\n"), b.PEM()),
		"last truncated":          slices.Concat(a.PEM(), b.PEM()[:100]),
		"no newline between":      slices.Concat(bytes.TrimSpace(a.PEM()), b.PEM()),
		"indented":                slices.Concat(a.PEM(), indent(b.PEM())),
		"headers":                 pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"X": "y"}, Bytes: a.Cert.Raw}),
		"trusted certificate":     pem.EncodeToMemory(&pem.Block{Type: "TRUSTED CERTIFICATE", Bytes: a.Cert.Raw}),
		"trailing bytes in block": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: append(slices.Clone(a.Cert.Raw), 0)}),
		"classic Mac line ends":   bytes.ReplaceAll(a.PEM(), []byte("\n"), []byte("\r")),
	} {
		if got, err := pki.ParseBundle(text); err == nil {
			t.Errorf("%s: parsed as %d roots", name, got.Len())
		}
	}
}

func TestRootID(t *testing.T) {
	root := somePool()[0]
	id := root.ID()
	if again, err := pki.ParseRootID(id.String()); err != nil || again != id {
		t.Errorf("%s reads as %s, %v", id, again, err)
	}
	if len(id.Short()) != 32 || !strings.HasPrefix(id.String(), id.Short()) {
		t.Errorf("Short is %q of %s", id.Short(), id)
	}
	var decoded map[pki.RootID]pki.RootID
	text, err := json.Marshal(map[pki.RootID]pki.RootID{id: id})
	if err == nil {
		err = json.Unmarshal(text, &decoded)
	}
	if err != nil || decoded[id] != id {
		t.Errorf("JSON %s reads as %v, %v", text, decoded, err)
	}
	for _, wrong := range []string{"", "ab", id.String()[1:], id.String() + "00", strings.Repeat("x", 64)} {
		if _, err := pki.ParseRootID(wrong); err == nil {
			t.Errorf("%q was read as a fingerprint", wrong)
		}
	}
	if again, err := pki.ParseRoot(root.PEM()); err != nil || again.ID() != id {
		t.Errorf("ParseRoot: %v", err)
	}
	if _, err := pki.ParseRoot(pki.NewBundle(somePool()...).PEM()); err == nil {
		t.Error("ParseRoot took several")
	}
}

func FuzzParseBundle(f *testing.F) {
	a, b := pkitest.NewRoot(f, "a", now), pkitest.NewRoot(f, "b", now)
	f.Add(a.PEM())
	f.Add(slices.Concat([]byte("# a\n"), a.PEM(), []byte("\n\n"), b.PEM(), []byte("# isthmus.dev/nudge 3\n")))
	f.Add(slices.Concat(a.PEM(), a.KeyPEM(f)))
	f.Add(a.PEM()[:200])
	f.Fuzz(func(t *testing.T, text []byte) {
		bundle, err := pki.ParseBundle(text)
		if err != nil {
			return
		}
		if !bytes.Equal(bundle.PEM(), text) {
			t.Fatalf("%q became %q", text, bundle.PEM())
		}
		nudged := bundle.WithNudge(1).Append(b.Root())
		again, err := pki.ParseBundle(nudged.PEM())
		if err != nil || !slices.Equal(again.IDs(), nudged.IDs()) || again.Nudge() != 1 {
			t.Fatalf("%q reads as %v, %v", nudged.PEM(), again.IDs(), err)
		}
	})
}
