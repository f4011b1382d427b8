// Command sample is the workload of the lab, in every role.
//
//	sample serve   an HTTP service that tells who was asked and by whom, gRPC's standard health service, an echo over TCP
//	sample call    one request, and what came of it; in TLS of its own if asked
//	sample load    open-model load with counts by kind of outcome
//
// Beside the standard library it uses gRPC, which the lab's other programs have compiled already.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sample:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	commands := map[string]func(context.Context, []string) error{"serve": serve, "call": call, "load": load}
	if len(args) > 0 && commands[args[0]] != nil {
		return commands[args[0]](ctx, args[1:])
	}
	return fmt.Errorf("usage: sample serve|call|load [flags]; `sample COMMAND -h` lists them")
}
