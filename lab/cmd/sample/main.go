// Command sample is the workload of the lab, in every role.
//
//	sample serve   an HTTP service that tells who was asked and by whom, and an echo over TCP
//	sample load    open-model load with counts by kind of outcome
//
// It uses the standard library alone, so that its image holds one small file.
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
	commands := map[string]func(context.Context, []string) error{"serve": serve, "load": load}
	if len(args) > 0 && commands[args[0]] != nil {
		return commands[args[0]](ctx, args[1:])
	}
	return fmt.Errorf("usage: sample serve|load [flags]; `sample serve -h` and `sample load -h` list them")
}
