// Command golangci-lint is golangci-lint with kube-api-linter built in.
//
// golangci-lint loads module plugins only if they are linked into it. Its own way to get there, "golangci-lint custom",
// clones a repository at build time; this main does the same from pinned modules alone.
package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/golangci/golangci-lint/v2/pkg/commands"
	"github.com/golangci/golangci-lint/v2/pkg/exitcodes"

	_ "sigs.k8s.io/kube-api-linter" // registers the linter "kubeapilinter"
)

func main() {
	if err := commands.Execute(buildInfo()); err != nil {
		fmt.Fprintln(os.Stderr, "golangci-lint:", err)
		os.Exit(exitcodes.Failure)
	}
}

// buildInfo reports the version of golangci-lint that is linked in, which is what its cache and "version" go by.
func buildInfo() commands.BuildInfo {
	const module = "github.com/golangci/golangci-lint/v2"
	out := commands.BuildInfo{Version: "unknown", Commit: "with kube-api-linter", Date: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return out
	}
	out.GoVersion = info.GoVersion
	for _, dep := range info.Deps {
		if dep.Path == module {
			out.Version = strings.TrimPrefix(dep.Version, "v")
		}
	}
	return out
}
