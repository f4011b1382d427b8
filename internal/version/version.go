// Package version holds the version of this build.
package version

// Version is the semantic version of this build, set by the linker.
var Version = "0.1.0-dev"
