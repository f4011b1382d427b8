// Command coredns is CoreDNS with the plugins that a cluster's DNS needs and
// no others: most of the full program's compile time is plugins for clouds.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

// The order of the plugins in a server's chain, as in CoreDNS's plugin.cfg.
var order = []string{
	"reload", "health", "ready", "errors", "log", "cache", "loadbalance",
	"hosts", "kubernetes", "loop", "forward",
}

func main() {
	dnsserver.Directives = order
	coremain.Run()
}
