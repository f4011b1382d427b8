package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// A dependency is a program of the machine, and the Debian package that has it.
type dependency struct{ command, pkg string }

// What a running lab needs of its machine, and what goes into the proxy's image.
// Docker brings a runc of its own, which Debian's package would push out: it is
// the command that counts.
var dependencies = []dependency{
	{"ip", "iproute2"},
	{"iptables", "iptables"},
	{"nft", "nftables"},
	{"mount", "mount"},
	{"nsenter", "util-linux"},
	{"runc", "runc"},
	{"busybox", "busybox-static"},
	{"openssl", "openssl"},
	{"python3", "python3"},
	{"pip3", "python3-pip"},
}

// systemPath is where Debian keeps programs for root, whatever the caller's PATH.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds a program of the machine.
func lookPath(command string) (string, bool) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH") + ":" + systemPath) {
		if file, err := exec.LookPath(filepath.Join(dir, command)); err == nil && filepath.IsAbs(file) {
			return file, true
		}
	}
	return "", false
}

// missingPackages returns the Debian packages whose program is not there.
func missingPackages(there func(command string) bool) []string {
	var pkgs []string
	for _, d := range dependencies {
		if !there(d.command) {
			pkgs = append(pkgs, d.pkg)
		}
	}
	return pkgs
}

// installed tells whether the machine has a program. pip3 may also be just a
// module of Python, which is how it is used here.
func installed(command string) bool {
	if command == "pip3" {
		return exec.Command("python3", "-c", "import pip").Run() == nil
	}
	_, ok := lookPath(command)
	return ok
}

// installPackages installs what is missing with apt, or says what to install
// where that is not possible.
func (b *builder) installPackages(ctx context.Context) error {
	pkgs := missingPackages(installed)
	if len(pkgs) == 0 {
		return nil
	}
	list := strings.Join(pkgs, " ")
	advice := "apt-get install --no-install-recommends " + list
	if _, ok := lookPath("apt-get"); !ok {
		return fmt.Errorf("this machine lacks programs of the Debian packages %s: install them", list)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("this machine lacks Debian packages, and only root can install them: %s", advice)
	}
	b.report.say("installing Debian packages: %s", list)
	for _, args := range [][]string{
		{"update", "-qq"},
		append([]string{"install", "-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"}, pkgs...),
	} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("%s: %w\n%s", advice, err, lastLines(out)))
		}
	}
	if still := missingPackages(installed); len(still) > 0 {
		return fmt.Errorf("apt-get installed %s, but programs of %s are still not found", list, strings.Join(still, " "))
	}
	return nil
}

// copyRunc takes the machine's runc: a container runtime of the machine's own
// distribution fits its kernel and its seccomp library.
func (b *builder) copyRunc(t target) error {
	file, ok := lookPath(t.name)
	if !ok {
		return fmt.Errorf("%s is not installed", t.name)
	}
	return installFile(file, filepath.Join(b.parts.Dir, t.files()[0]))
}

func lastLines(out []byte) string {
	var t tail
	for line := range strings.Lines(string(out)) {
		t.add(strings.TrimRight(line, "\n"))
	}
	return t.String()
}

// triplet is Debian's name of the architecture in library directories.
func triplet() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64-linux-gnu"
	case "arm64":
		return "aarch64-linux-gnu"
	default:
		return runtime.GOARCH + "-linux-gnu"
	}
}
