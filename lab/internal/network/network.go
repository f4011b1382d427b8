// Package network handles what of a lab's network belongs to the machine rather than to a node: the bridge between the
// nodes, and cuts of it. It uses ip(8) and nft(8).
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
)

// Busy lists the networks that the machine's own interfaces are in.
func Busy() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var busy []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			busy = append(busy, p.Masked())
		}
	}
	return busy, nil
}

// AddBridge makes the lab's bridge, with the gateway's address on it. That address is also how the machine itself
// reaches the nodes.
func AddBridge(l topology.Lab) error {
	for _, c := range [][]string{
		{"link", "add", l.Bridge, "type", "bridge"},
		{"address", "add", fmt.Sprintf("%s/%d", l.Gateway, l.Subnet.Bits()), "dev", l.Bridge},
		{"link", "set", l.Bridge, "up"},
	} {
		if out, err := exec.Command("ip", c...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(c, " "), err, out)
		}
	}
	return nil
}

// RemoveBridge removes the lab's bridge. One that is not there is no error.
func RemoveBridge(l topology.Lab) error {
	if _, err := os.Stat("/sys/class/net/" + l.Bridge); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if out, err := exec.Command("ip", "link", "delete", l.Bridge).CombinedOutput(); err != nil {
		return fmt.Errorf("ip link delete %s: %w: %s", l.Bridge, err, out)
	}
	return nil
}

// Inside makes a command that runs in the network namespace of a node.
type Inside func(ctx context.Context, argv ...string) (*exec.Cmd, error)

// tablePrefix heads the names of the nftables tables that cut a node off; the rest is the other cluster's name. They
// live in the node's network namespace and vanish with it.
const tablePrefix = "cut-"

// Cut drops all packets between a node (with its pods) and another cluster; with apiServerOnly, only those to the other
// cluster's API server. What is cut already is cut anew.
func Cut(ctx context.Context, node Inside, from topology.Cluster, apiServerOnly bool) error {
	return nft(ctx, node, ruleset(from, apiServerOnly))
}

// Heal removes every cut of a node.
func Heal(ctx context.Context, node Inside) error {
	cuts, err := Cuts(ctx, node)
	if err != nil {
		return err
	}
	var script strings.Builder
	for _, c := range cuts {
		fmt.Fprintf(&script, "delete table inet %s%s\n", tablePrefix, c)
	}
	return nft(ctx, node, script.String())
}

// Cuts lists the clusters that a node is cut off from.
func Cuts(ctx context.Context, node Inside) ([]string, error) {
	cmd, err := node(ctx, "nft", "list", "tables", "inet")
	if err != nil {
		return nil, err
	}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("nft list tables: %w", err)
	}
	return parseTables(string(out)), nil
}

func parseTables(list string) (cuts []string) {
	for line := range strings.Lines(list) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "table inet "+tablePrefix); ok {
			cuts = append(cuts, name)
		}
	}
	return cuts
}

// ruleset replaces the table of a cut. Its chains see packets after kube-proxy has translated their destination, so that
// a Service which leads to the other cluster is cut as well.
func ruleset(from topology.Cluster, apiServerOnly bool) string {
	table := tablePrefix + from.Name
	out := fmt.Sprintf("ip daddr { %s, %s } drop", from.NodeIP, from.PodCIDR)
	in := fmt.Sprintf("ip saddr { %s, %s } drop", from.NodeIP, from.PodCIDR)
	if apiServerOnly {
		out = fmt.Sprintf("ip daddr %s tcp dport %d drop", from.NodeIP, topology.APIServerPort)
		in = fmt.Sprintf("ip saddr %s tcp sport %d drop", from.NodeIP, topology.APIServerPort)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s\ndelete table inet %s\ntable inet %s {\n", table, table, table)
	for _, hook := range []string{"input", "forward", "output"} {
		fmt.Fprintf(&b, "  chain %s {\n    type filter hook %s priority filter - 10\n    %s\n    %s\n  }\n", hook, hook, out, in)
	}
	b.WriteString("}\n")
	return b.String()
}

func nft(ctx context.Context, node Inside, script string) error {
	cmd, err := node(ctx, "nft", "--file", "-")
	if err != nil {
		return err
	}
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}
