package node

import (
	"slices"
	"testing"
)

func TestPlanCgroups(t *testing.T) {
	for _, tt := range []struct {
		why, own string
		want     []Cgroup
	}{
		{
			"v1, with two controllers in one hierarchy and v2 without any",
			"3:name=systemd:/\n2:cpu,cpuacct:/user/x\n1:memory:/\n0::/\n",
			[]Cgroup{
				{"name=systemd", "systemd", "/sys/fs/cgroup/systemd/lab"},
				{"cpu,cpuacct", "cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/user/x/lab"},
				{"memory", "memory", "/sys/fs/cgroup/memory/lab"},
			},
		},
		{
			"v2 alone",
			"0::/user.slice/session-2.scope\n",
			[]Cgroup{{"", "", "/sys/fs/cgroup/user.slice/session-2.scope/lab"}},
		},
	} {
		got, err := planCgroups(tt.own, "lab")
		if err != nil {
			t.Errorf("%s: %v", tt.why, err)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.why, got, tt.want)
		}
	}
	if _, err := planCgroups("nonsense", "lab"); err == nil {
		t.Error("a line that is not one of /proc/self/cgroup was taken")
	}
}
