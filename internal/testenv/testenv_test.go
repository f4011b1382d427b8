package testenv

import "testing"

func TestStart(t *testing.T) {
	c := Start(t)
	c.Namespace(t, "x", nil)
}
